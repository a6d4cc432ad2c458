"""Constrained evolution: the best arch for one objective under limits.

A round evolves a population with the published operators, improves the elites by local search,
and recombines them; rounds are repeated until the budget ends. Every arch returned has been
evaluated and keeps every limit.

Shape legend: ``N`` archs, ``G`` genes.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Rows
from onceforall.errors import ConfigError
from onceforall.search.journal import recorded
from onceforall.search.judge import Judge
from onceforall.search.local import Point, TabuSearch, jump, points_of
from onceforall.search.moves import Moves
from onceforall.search.problem import Problem

# Rounds of copying genes of a feasible arch into infeasible ones before they are replaced by it.
_MAX_REPAIRS = 40
_DEFAULT_EVALUATIONS = 64_000
_NO_BOUND = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """Settings of the evolution; the defaults of the first five are the published ones.

    Attributes:
        population_size: Children of a generation.
        parent_ratio: Parents over population size.
        mutation_ratio: Children made by mutation over population size; the others by crossover.
        mutate_probability: Chance that a block (all its genes) or a depth is redrawn.
        resolution_probability: Chance that the resolution is redrawn.
        generations: Generations of a round, before local search.
        starts: Elites that are improved by jumps.
        elites: Archs that are improved by tabu search and then recombined.
        children: Recombinations in a row without a new best arch that end a round.
    """

    population_size: int = 100
    parent_ratio: float = 0.25
    mutation_ratio: float = 0.5
    mutate_probability: float = 0.1
    resolution_probability: float = 0.5
    generations: int = 5
    starts: int = 10
    elites: int = 5
    children: int = 6
    walk: TabuSearch = field(default_factory=TabuSearch)

    def __post_init__(self) -> None:
        for name in ("population_size", "starts", "elites", "children"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not at least 1")
        for name in ("parent_ratio", "mutation_ratio", "mutate_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best arch that an evolution found.

    Attributes:
        arch: The arch; it keeps every limit.
        objective: Its objective, as evaluated (minimised).
        costs: Its costs by name.
        evaluations: Archs whose objective was evaluated.
        history: Evaluations made and objective reached, at each improvement.
    """

    arch: Arch
    objective: float
    costs: dict[str, float]
    evaluations: int
    history: tuple[tuple[int, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "arch": self.arch.to_json(),
            "objective": self.objective,
            "costs": self.costs,
            "evaluations": self.evaluations,
            "history": [list(entry) for entry in self.history],
        }


def evolve(
    problem: Problem,
    *,
    seed: int,
    max_evaluations: int | None = None,
    max_seconds: float | None = None,
    settings: Evolution | None = None,
    start: Rows | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Best:
    """Return the arch with the least objective that keeps every limit.

    Args:
        problem: Genes, exactly one objective, limits.
        seed: Decides everything, unless ``max_seconds`` ends the search.
        max_evaluations: Evaluations of the objective after which no new step starts; None is
            64,000, or as many as there is time for where ``max_seconds`` is given.
        max_seconds: Seconds after which no new step starts; None for no such end.
        settings: Settings of the evolution.
        start: Further archs to begin with, ``(N, G)``; they may exceed limits.
        journal: File of one line per batch of evaluations. A search that finds it evaluates
            nothing that is there again and, without ``max_seconds``, ends with the same best arch
            and the same counts as an undisturbed one; with more evaluations it goes on from there.
        progress: Told about evaluations done, now and then.

    Raises:
        ConfigError: If there is not exactly one objective, or the journal is of another search.
        InfeasibleError: If no arch keeps every limit.
    """
    if len(problem.objectives) != 1:
        raise ConfigError(f"evolve minimises one objective, got {', '.join(problem.objectives)}")
    if max_evaluations is None:
        max_evaluations = _DEFAULT_EVALUATIONS if max_seconds is None else _NO_BOUND
    (objective,) = problem.objectives.values()
    settings = settings or Evolution()
    if journal is not None:
        header = _header(problem, seed, settings, start)
        objective = recorded(objective, journal=journal, header=header)
    judge = Judge(
        problem=problem,
        objective=objective,
        max_evaluations=max_evaluations,
        deadline=None if max_seconds is None else time.monotonic() + max_seconds,
    )
    search = _Search(
        judge=judge,
        moves=Moves(problem.encoding),
        rng=np.random.default_rng(seed),
        settings=settings,
        anchor=problem.feasible_row(),
        progress=progress,
        elites=[],
        history=[],
        gains=[],
    )
    search.run(start)
    return search.best()


@dataclass(slots=True, kw_only=True, eq=False)
class _Search:
    """One evolution under way."""

    judge: Judge
    moves: Moves
    rng: np.random.Generator
    settings: Evolution
    anchor: Rows
    progress: Callable[[int, int], None]
    elites: list[Point]
    history: list[tuple[int, float]]
    gains: list[float]

    def run(self, start: Rows | None) -> None:
        """Run rounds until the budget ends; every fourth recombines the earlier rounds' elites.

        A resolution decides how the rest of an arch is best spent, and a population soon agrees
        on one. So every other fresh round starts from several.
        """
        veterans: list[Point] = []
        rounds = 0
        while rounds == 0 or not self.judge.is_spent:
            before = self.judge.evaluations
            self.elites = list(veterans) if rounds % 4 == 3 else []
            if not self.elites:
                self._new_elites(start, spread=rounds % 2 == 0)
            self._recombine()
            veterans = _best_of([*veterans, *self.elites], self.settings.elites)
            rounds += 1
            if self.judge.evaluations == before:
                break  # the space is exhausted
        self.elites = veterans

    def best(self) -> Best:
        """Return the result."""
        point = self.elites[0]
        problem, row = self.judge.problem, point.row[None]
        return Best(
            arch=problem.encoding.to_archs(row)[0],
            objective=point.value,
            costs={name: cost(row)[0].item() for name, cost in problem.costs.items()},
            evaluations=self.judge.evaluations,
            history=tuple(self.history),
        )

    def _new_elites(self, start: Rows | None, *, spread: bool) -> None:
        """Fill the elites from a fresh population, or from the best of each of its resolutions."""
        encoding, settings = self.moves.encoding, self.settings
        drawn = encoding.sample(5 * settings.population_size, self.rng)
        rows = drawn if start is None else np.concatenate([encoding.canonical(start), drawn])
        population = points_of(self.judge, encoding.unique(self._repaired(rows)))
        for _ in range(settings.generations):
            population = self._generation(population)
        self._note(population[0])
        ordered = self._spread if spread else list
        improved: list[Point] = []
        for point in ordered(population)[: settings.starts]:
            if improved and self.judge.is_spent:
                break
            improved.append(jump(self.judge, self.moves, point))
        for point in ordered(_best_of(improved, len(improved)))[: settings.elites]:
            self._insert(point)
            if not self.judge.is_spent:
                self._insert(self._walk(point))

    def _spread(self, points: list[Point]) -> list[Point]:
        """Return points, best first, with the best of each resolution before all seconds."""
        column = self.moves.encoding.gene_index("resolution")
        if column is None:
            return points
        count: Counter[int] = Counter()
        places = []
        for point in points:
            resolution = int(point.row[column])
            places.append(count[resolution])
            count[resolution] += 1
        return [points[i] for i in np.argsort(places, kind="stable")]

    def _generation(self, population: list[Point]) -> list[Point]:
        """Return parents and their children, best first."""
        encoding, settings = self.moves.encoding, self.settings
        parents = np.stack(
            [
                p.row
                for p in population[
                    : max(1, round(settings.parent_ratio * settings.population_size))
                ]
            ]
        )
        num_mutated = round(settings.mutation_ratio * settings.population_size)
        num_crossed = settings.population_size - num_mutated
        mutated = parents[self.rng.integers(len(parents), size=num_mutated)]
        pairs = self.rng.integers(len(parents), size=(2, num_crossed))
        children = np.concatenate(
            [
                encoding.mutate_units(mutated, self.rng, self._probabilities()),
                encoding.crossover(parents[pairs[0]], parents[pairs[1]], self.rng),
            ]
        )
        known = {point.row.tobytes() for point in population}
        children = encoding.unique(self._repaired(children))
        children = children[[row.tobytes() not in known for row in children]]
        return sorted(population + points_of(self.judge, children), key=lambda p: p.value)

    def _recombine(self) -> None:
        """Improve children of the elites until the best of them has stayed for long."""
        encoding, settings = self.moves.encoding, self.settings
        barren = 0
        while barren < settings.children and not self.judge.is_spent:
            self.progress(self.judge.evaluations, self.judge.max_evaluations)
            rows = np.stack([point.row for point in self.elites])
            first, second = rows[self.rng.integers(len(rows), size=2)]
            child = first[None]
            if self.rng.random() < 0.7:
                child = encoding.crossover(child, second[None], self.rng)
            child = encoding.mutate_units(child, self.rng, self.rng.choice([0.05, 0.1, 0.2]))
            (point,) = points_of(self.judge, self._repaired(child))
            point = jump(self.judge, self.moves, point)
            barren += 1
            best = self.elites[0]
            if self._is_promising(point) and self._insert(self._walk(point)):
                barren = barren if self.elites[0] is best else 0

    def _is_promising(self, point: Point) -> bool:
        """Say whether a walk may well take a point among the elites: most earlier ones gain so."""
        usual = float(np.quantile(self.gains, 0.8)) if self.gains else np.inf
        full = len(self.elites) >= self.settings.elites
        return not full or point.value - usual <= self.elites[-1].value

    def _walk(self, point: Point) -> Point:
        reached = self.settings.walk(self.judge, self.moves, point, self.rng)
        if np.isfinite(point.value):
            self.gains.append(point.value - reached.value)
        return reached

    def _insert(self, point: Point) -> bool:
        """Put a point among the elites; say whether it stays."""
        if any(np.array_equal(point.row, elite.row) for elite in self.elites):
            return False
        self._note(point)
        self.elites = _best_of([*self.elites, point], self.settings.elites)
        return any(point is elite for elite in self.elites)

    def _note(self, point: Point) -> None:
        if not self.history or point.value < self.history[-1][1]:
            self.history.append((self.judge.evaluations, point.value))

    def _probabilities(self) -> NDArray[np.float64]:
        """Return the chance of each unit to be redrawn."""
        encoding = self.moves.encoding
        chances = np.full(self.moves.num_units, self.settings.mutate_probability)
        resolution = encoding.gene_index("resolution")
        if resolution is not None:
            chances[encoding.unit[resolution]] = self.settings.resolution_probability
        return chances

    def _repaired(self, rows: Rows) -> Rows:
        """Return canonical rows that keep the limits, by taking genes from a feasible arch."""
        encoding = self.moves.encoding
        rows = encoding.canonical(rows)
        bad = np.nonzero(~self.judge.inside(self.judge.costs(rows)))[0]
        for _ in range(_MAX_REPAIRS):
            if not len(bad):
                return rows
            taken = self.rng.random((len(bad), rows.shape[1])) < 0.1
            rows[bad] = encoding.canonical(np.where(taken, self.anchor, rows[bad]))
            bad = bad[~self.judge.inside(self.judge.costs(rows[bad]))]
        rows[bad] = self.anchor
        return rows


def _header(problem: Problem, seed: int, settings: Evolution, start: Rows | None) -> dict[str, Any]:
    """Return what must be the same for a journal to be of this search."""
    genes = [[g.axis, g.stage, g.block, g.choices] for g in problem.encoding.genes]
    return {
        "search": "evolution",
        "seed": seed,
        "objectives": list(problem.objectives),
        "limits": {name: float(bound) for name, bound in problem.limits.items()},
        "sources": dict(problem.sources),
        "settings": asdict(settings),
        "start": None if start is None else hashlib.sha256(start.tobytes()).hexdigest(),
        "genes": genes,
    }


def _best_of(points: list[Point], count: int) -> list[Point]:
    """Return the best distinct points, best first."""
    distinct = {point.row.tobytes(): point for point in points}
    return sorted(distinct.values(), key=lambda point: point.value)[:count]

"""NSGA-II on populations: the Pareto front under limits, resumable to the bit.

Shape legend: ``N`` archs, ``G`` genes, ``M`` objectives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Encoding, Rows
from onceforall.errors import ConfigError
from onceforall.files import append_jsonl, damaged, iterate_jsonl, reason_of
from onceforall.pareto import (
    crowding_distance,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)
from onceforall.reading import is_number
from onceforall.search.journal import check_header
from onceforall.search.polish import polish_front
from onceforall.search.problem import Floats, Problem

_MOST_COUNTED = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One arch of a front.

    Attributes:
        arch: The arch.
        objectives: Its objectives by name.
        costs: Its costs by name.
    """

    arch: Arch
    objectives: dict[str, float]
    costs: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "arch": self.arch.to_json(),
            "objectives": self.objectives,
            "costs": self.costs,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What a search found.

    Attributes:
        points: The non-dominated archs, by the last objective ascending.
        hypervolume: Of the front of every generation, to the reference point; the last one is
            after the polish.
        reference: Reference point: the worst objectives of the first generation.
        evaluations: Archs evaluated.
    """

    points: tuple[FrontPoint, ...]
    hypervolume: tuple[float, ...]
    reference: tuple[float, ...]
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "points": [point.to_json() for point in self.points],
            "hypervolume": list(self.hypervolume),
            "reference": list(self.reference),
            "evaluations": self.evaluations,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Population:
    """Evaluated archs: rows ``(N, G)``, objectives ``(N, M)`` and violations ``(N,)``."""

    rows: Rows
    scores: Floats
    violation: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: NDArray[Any]) -> _Population:
        """Return some of the archs."""
        return _Population(
            rows=self.rows[index], scores=self.scores[index], violation=self.violation[index]
        )

    def join(self, other: _Population) -> _Population:
        """Return the archs of both."""
        return _Population(
            rows=np.concatenate([self.rows, other.rows]),
            scores=np.concatenate([self.scores, other.scores]),
            violation=np.concatenate([self.violation, other.violation]),
        )

    def front(self) -> _Population:
        """Return the feasible archs that no other dominates, each objective vector once."""
        feasible = self.take(self.violation == 0)
        return feasible.take(pareto_front(feasible.scores, keep_duplicates=False))


@dataclass(slots=True, kw_only=True)
class _State:
    """A generation; what a line of the journal holds."""

    generation: int
    population: _Population
    rng: np.random.Generator
    reference: Floats
    volumes: list[float]
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        # Scores are kept as well: a predictor need not give the same last bit in another batch.
        return {
            "generation": self.generation,
            "rows": self.population.rows.tolist(),
            "scores": self.population.scores.tolist(),
            "violation": self.population.violation.tolist(),
            "rng": self.rng.bit_generator.state,
            "reference": self.reference.tolist(),
            "hypervolume": self.volumes[-1],
            "evaluations": self.evaluations,
        }


def nsga2(
    problem: Problem,
    *,
    seed: int,
    population_size: int = 128,
    generations: int = 60,
    mutation_probability: float | None = None,
    start: Rows | None = None,
    journal: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Front:
    """Return the Pareto front that NSGA-II finds; the final generation counts.

    Equal archs are kept once. A feasible arch precedes any that exceeds a limit; among those, the
    smaller violation precedes. At the end the front is polished by local search.

    Args:
        problem: Genes, objectives and limits.
        seed: Decides everything; the same seed gives the same front on any machine whose
            objectives give the same numbers.
        population_size: Archs that survive a generation; at least 2.
        generations: Generations.
        mutation_probability: For each gene; by default two genes of each child on average.
        start: Further archs to begin with, ``(N, G)``; the front is at least as good as theirs.
        journal: File of one line per generation. A search that finds it goes on from the last
            complete line and ends with the same front as an undisturbed one.
        progress: Told about generations done.

    Raises:
        ConfigError: If a size is out of range, or the journal is of another search.
        InfeasibleError: If no arch keeps every limit.

    Source: Deb et al., *A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II*, IEEE
    TEVC 2002.
    """
    if population_size < 2 or generations < 0:
        raise ConfigError(
            f"population_size {population_size} and generations {generations} must be >= 2 and >= 0"
        )
    feasible = problem.feasible_row()
    genes = max(1, problem.encoding.num_genes)
    probability = min(0.5, 2 / genes) if mutation_probability is None else mutation_probability
    known = feasible if start is None else np.concatenate([feasible, start])
    header = _header(problem, seed, population_size, probability)
    if start is not None:
        header["start"] = hashlib.sha256(start.tobytes()).hexdigest()
    state = _resumed(problem, header, journal)
    if state is None:
        state = _first(problem, seed, population_size, known)
        _write(journal, header)
        _write(journal, state.to_json())
    while state.generation < generations:
        progress(state.generation, generations)
        children = _children(problem.encoding, state, population_size, probability)
        state.evaluations += len(children)
        pool = state.population.join(_evaluated(problem, children))
        state.population = pool.take(_order(pool)[:population_size])
        state.generation += 1
        state.volumes.append(_volume(state))
        _write(journal, state.to_json())
    last = state.population.rows
    if start is not None:  # what the generations crowded out counts as well
        last = problem.encoding.unique(np.concatenate([last, start]))
    rows, extra = polish_front(problem, last, seed=seed)
    state.evaluations += extra
    state.population = _evaluated(problem, rows).join(state.population).front()
    state.volumes.append(_volume(state))
    progress(generations, generations)
    return _front(problem, state)


def _evaluated(problem: Problem, rows: Rows) -> _Population:
    scores = problem.score(rows)
    return _Population(
        rows=rows,
        scores=np.where(np.isnan(scores), np.inf, scores),
        violation=problem.violation(rows),
    )


def _first(problem: Problem, seed: int, population_size: int, known: Rows) -> _State:
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    drawn = encoding.sample(4 * population_size, rng)
    pool = _evaluated(
        problem,
        encoding.unique(np.concatenate([known, encoding.smallest(), encoding.largest(), drawn])),
    )
    finite = np.where(np.isfinite(pool.scores), pool.scores, -np.inf).max(axis=0)
    state = _State(
        generation=0,
        population=pool.take(_order(pool)[:population_size]),
        rng=rng,
        reference=np.where(np.isfinite(finite), finite, 0.0),
        volumes=[],
        evaluations=len(pool),
    )
    state.volumes.append(_volume(state))
    return state


def _children(encoding: Encoding, state: _State, count: int, probability: float) -> Rows:
    """Return new children of tournament winners, by crossover and mutation."""
    rng, rows = state.rng, state.population.rows
    fitness = np.empty(len(rows), dtype=np.int64)
    fitness[_order(state.population)] = np.arange(len(rows))
    pairs = rng.integers(len(rows), size=(2, 2, count))
    parents = np.where(fitness[pairs[:, 0]] <= fitness[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    crossed = encoding.crossover(rows[parents[0]], rows[parents[1]], rng)
    children = encoding.mutate(crossed, rng, probability)
    together = encoding.unique_index(np.concatenate([rows, children]))
    return children[together[together >= len(rows)] - len(rows)]


def _order(population: _Population) -> NDArray[np.int64]:
    """Return the order of archs, best first: by violation, then rank, then crowding."""
    feasible = population.violation == 0
    rank = np.zeros(len(population), dtype=np.int64)
    crowding = np.zeros(len(population))
    if feasible.any():
        scores = population.scores[feasible]
        ranks = non_dominated_ranks(scores)
        rank[feasible] = ranks
        crowded = np.zeros(len(ranks))
        for front in range(int(ranks.max()) + 1):
            crowded[ranks == front] = crowding_distance(scores[ranks == front])
        crowding[feasible] = crowded
    return np.lexsort((-crowding, rank, population.violation))


def _volume(state: _State) -> float:
    scores = state.population.front().scores
    inside = scores[(scores < state.reference).all(axis=1)]
    return hypervolume(inside, state.reference) if len(inside) else 0.0


def _front(problem: Problem, state: _State) -> Front:
    population = state.population
    population = population.take(np.lexsort(population.scores.T))
    costs = {name: cost(population.rows) for name, cost in problem.costs.items()}
    points = tuple(
        FrontPoint(
            arch=arch,
            objectives=dict(zip(problem.objectives, population.scores[i].tolist(), strict=True)),
            costs={name: values[i].item() for name, values in costs.items()},
        )
        for i, arch in enumerate(problem.encoding.to_archs(population.rows))
    )
    return Front(
        points=points,
        hypervolume=tuple(state.volumes),
        reference=tuple(state.reference.tolist()),
        evaluations=state.evaluations,
    )


def _header(
    problem: Problem, seed: int, population_size: int, probability: float
) -> dict[str, Any]:
    """Return what must be the same for a journal to be of this search."""
    return {
        "seed": seed,
        "population_size": population_size,
        "mutation_probability": probability,
        "num_options": problem.encoding.num_options.tolist(),
        "objectives": list(problem.objectives),
        "limits": {name: float(bound) for name, bound in problem.limits.items()},
        "sources": dict(problem.sources),
    }


def _write(journal: Path | None, record: dict[str, Any]) -> None:
    if journal is not None:
        append_jsonl(journal, record)


def _resumed(problem: Problem, header: dict[str, Any], journal: Path | None) -> _State | None:
    """Return the state of the journal's last complete line, or None where there is none.

    Raises:
        ConfigError: If the journal is of another search.
        CheckpointError: If it is damaged.
    """
    first, last, volumes = None, None, []
    for line in () if journal is None else iterate_jsonl(journal):
        if first is None:
            first = line
        else:
            last = line
            volumes.append(line.get("hypervolume"))
    if journal is None or first is None:
        return None
    check_header(journal, first, header)
    if last is None:
        journal.unlink()
        return None
    try:
        return _state_of(problem, header, last, volumes)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(journal, f"its last line: {reason_of(error)}") from error


def _state_of(
    problem: Problem, header: dict[str, Any], line: dict[str, Any], volumes: list[Any]
) -> _State:
    """Return the state that a line of a journal holds.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: If it holds none.
    """
    rng = np.random.default_rng(header["seed"])
    rng.bit_generator.state = line["rng"]
    genes = problem.encoding
    # As wide integers first: others than options would be cut to some.
    rows = np.array(line["rows"], dtype=np.int64).reshape(-1, genes.num_genes)
    scores = np.array(line["scores"], dtype=np.float64).reshape(-1, len(problem.objectives))
    violation = np.array(line["violation"], dtype=np.float64)
    reference = np.array(line["reference"], dtype=np.float64)
    if not len(rows) == len(scores) == violation.size > 0 or violation.ndim != 1:
        raise ValueError("rows, scores and violations are not as many")
    if len(rows) > header["population_size"] or reference.shape != (len(problem.objectives),):
        raise ValueError("its population or reference is of another size")
    if ((rows < 0) | (rows >= genes.num_options)).any():
        raise ValueError("a gene has no such option")
    if np.isnan(scores).any() or not (violation >= 0).all() or not np.isfinite(reference).all():
        raise ValueError("a score is no number")
    counts = [line["generation"], line["evaluations"]]
    if not all(isinstance(count, int) and 0 <= count <= _MOST_COUNTED for count in counts):
        raise ValueError(f"generation and evaluations {counts} are no counts")
    if not all(is_number(volume, 0, 1e300) for volume in volumes):
        raise ValueError("a hypervolume is no number")
    return _State(
        generation=counts[0],
        population=_Population(rows=rows.astype(np.uint8), scores=scores, violation=violation),
        rng=rng,
        reference=reference,
        volumes=volumes,
        evaluations=counts[1],
    )

"""NSGA-II on populations: the Pareto front under limits, resumable to the bit.

Shape legend: ``N`` archs, ``G`` genes, ``M`` objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceforall.arch import Arch
from onceforall.encoding import Rows
from onceforall.files import append_jsonl, read_jsonl
from onceforall.pareto import (
    crowding_distance,
    hypervolume,
    non_dominated_ranks,
    pareto_front,
)
from onceforall.search.problem import Floats, Problem


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What a search found.

    Attributes:
        points: The non-dominated archs, by the last objective ascending.
        hypervolume: Of the front of every generation, to the reference point.
        reference: Reference point: the worst objectives of the first generation.
        evaluations: Archs evaluated.
    """

    points: tuple[FrontPoint, ...]
    hypervolume: tuple[float, ...]
    reference: tuple[float, ...]
    evaluations: int


@dataclass(slots=True)
class _State:
    """A generation; what a line of the journal holds."""

    generation: int
    rows: Rows
    rng: np.random.Generator
    reference: Floats
    volumes: list[float]
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "rows": self.rows.tolist(),
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
    journal: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Front:
    """Return the Pareto front that NSGA-II finds; the final generation counts.

    Equal archs are kept once. A feasible arch precedes any that exceeds a limit; among those, the
    smaller violation precedes. At the end the front's one-gene neighbourhood is searched until it
    holds no improvement (at most ten rounds).

    Args:
        problem: Genes, objectives and limits.
        seed: Decides everything; the same seed gives the same front on any machine.
        population_size: Archs that survive a generation.
        generations: Generations.
        mutation_probability: For each gene; by default two genes of each child on average.
        journal: File of one line per generation. A search that finds it goes on from the last
            complete line and ends with the same front as an undisturbed one.
        progress: Told about generations done.

    Raises:
        InfeasibleError: If no arch keeps every limit.

    Source: Deb et al., *A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II*, IEEE
    TEVC 2002.
    """
    encoding = problem.encoding
    feasible = problem.feasible_row()
    probability = mutation_probability or min(0.5, 2 / max(1, encoding.num_genes))
    state = _resumed(problem, seed, journal)
    if state is None:
        state = _first(problem, seed, population_size, feasible)
        _write(journal, state)
    while state.generation < generations:
        progress(state.generation, generations)
        children = _children(problem, state, population_size, probability)
        pool = encoding.unique(np.concatenate([state.rows, children]))
        state.rows = pool[_survivors(problem, pool, population_size)]
        state.evaluations += len(children)
        state.generation += 1
        state.volumes.append(_volume(problem, state))
        _write(journal, state)
    rows, extra = _polish(problem, state.rows)
    state.evaluations += extra
    state.rows = rows
    state.volumes.append(_volume(problem, state))
    progress(generations, generations)
    return _front(problem, state)


def _first(problem: Problem, seed: int, population_size: int, feasible: Rows) -> _State:
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    drawn = encoding.sample(4 * population_size, rng)
    pool = encoding.unique(
        np.concatenate([feasible, encoding.smallest(), encoding.largest(), drawn])
    )
    scores = problem.score(pool)
    rows = pool[_survivors(problem, pool, population_size)]
    state = _State(0, rows, rng, scores.max(axis=0), [], len(pool))
    state.volumes.append(_volume(problem, state))
    return state


def _children(problem: Problem, state: _State, count: int, probability: float) -> Rows:
    """Return children of tournament winners, by crossover and mutation."""
    encoding, rng = problem.encoding, state.rng
    fitness = _fitness(problem, state.rows)
    pairs = rng.integers(len(state.rows), size=(2, 2, count))
    parents = np.where(fitness[pairs[:, 0]] <= fitness[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    crossed = encoding.crossover(state.rows[parents[0]], state.rows[parents[1]], rng)
    return encoding.canonical(encoding.mutate(crossed, rng, probability))


def _fitness(problem: Problem, rows: Rows) -> NDArray[np.int64]:
    """Return each row's place, best first: by violation, then rank, then crowding."""
    violation, scores = problem.violation(rows), problem.score(rows)
    order = _order(violation, scores)
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    return place


def _survivors(problem: Problem, pool: Rows, count: int) -> NDArray[np.int64]:
    return _order(problem.violation(pool), problem.score(pool))[:count]


def _order(violation: Floats, scores: Floats) -> NDArray[np.int64]:
    feasible = violation == 0
    rank = np.zeros(len(violation), dtype=np.int64)
    crowding = np.zeros(len(violation))
    if feasible.any():
        ranks = non_dominated_ranks(scores[feasible])
        rank[feasible] = ranks
        crowded = np.zeros(len(ranks))
        for front in range(int(ranks.max()) + 1):
            crowded[ranks == front] = crowding_distance(scores[feasible][ranks == front])
        crowding[feasible] = crowded
    return np.lexsort((-crowding, rank, violation))


def _polish(problem: Problem, rows: Rows) -> tuple[Rows, int]:
    """Add the neighbours of the front that improve it, until none does."""
    encoding, evaluations = problem.encoding, 0
    front = _feasible_front(problem, rows)
    for _ in range(10):
        around = encoding.unique(np.concatenate([front, *map(encoding.neighbours, front)]))
        evaluations += len(around)
        better = _feasible_front(problem, around)
        if len(better) == len(front) and np.array_equal(_sorted(better), _sorted(front)):
            break
        front = better
    return front, evaluations


def _feasible_front(problem: Problem, rows: Rows) -> Rows:
    rows = rows[problem.violation(rows) == 0]
    return rows[pareto_front(problem.score(rows), keep_duplicates=False)]


def _sorted(rows: Rows) -> Rows:
    return rows[np.lexsort(rows.T[::-1])]


def _volume(problem: Problem, state: _State) -> float:
    rows = state.rows[problem.violation(state.rows) == 0]
    scores = problem.score(rows)
    inside = scores[(scores < state.reference).all(axis=1)]
    return hypervolume(inside, state.reference) if len(inside) else 0.0


def _front(problem: Problem, state: _State) -> Front:
    rows = _feasible_front(problem, state.rows)
    scores = problem.score(rows)
    order = np.lexsort(scores.T)
    rows, scores = rows[order], scores[order]
    costs = {name: cost(rows) for name, cost in problem.costs.items()}
    points = tuple(
        FrontPoint(
            arch=arch,
            objectives=dict(zip(problem.objectives, scores[i].tolist(), strict=True)),
            costs={name: values[i].item() for name, values in costs.items()},
        )
        for i, arch in enumerate(problem.encoding.to_archs(rows))
    )
    return Front(
        points=points,
        hypervolume=tuple(state.volumes),
        reference=tuple(state.reference.tolist()),
        evaluations=state.evaluations,
    )


def _write(journal: Path | None, state: _State) -> None:
    if journal is not None:
        append_jsonl(journal, state.to_json())


def _resumed(problem: Problem, seed: int, journal: Path | None) -> _State | None:
    """Return the state of the journal's last complete line, or None."""
    lines = read_jsonl(journal) if journal is not None else []
    if not lines:
        return None
    last = lines[-1]
    rng = np.random.default_rng(seed)
    rng.bit_generator.state = last["rng"]
    return _State(
        last["generation"],
        np.array(last["rows"], dtype=np.uint8).reshape(-1, problem.encoding.num_genes),
        rng,
        np.array(last["reference"]),
        [line["hypervolume"] for line in lines],
        last["evaluations"],
    )

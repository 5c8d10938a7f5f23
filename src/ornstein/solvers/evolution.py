"""Evolutionary search over time steps and network depth: AutoDiffusion (Li et al. 2023, 2309.10438).

A space says what a candidate is, how one is drawn, mutated and crossed. Fitness is the caller's: any function of
a candidate, the smaller the better.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ornstein.core import TimeGrid

__all__ = ["Both", "Depths", "EvolutionarySearch", "Found", "TimeSteps"]


class Space(Protocol):
    """A search space. Candidates are hashable and canonical: equal plans are equal candidates."""

    def first(self) -> Any:
        """The candidate to start from."""

    def draw(self, source: random.Random) -> Any:
        """A candidate at random."""

    def mutate(self, candidate: Any, share: float, source: random.Random) -> Any:
        """Each part is replaced with probability `share`."""

    def cross(self, one: Any, other: Any, source: random.Random) -> Any:
        """Each part from one of two parents."""


class TimeSteps:
    """`steps` distinct times out of `choices`, evenly spaced in (0, 1]: the rows start there, and the last ends at 0.

    Candidates are indices, largest first, so that the order in which they were given does not matter. What a
    crossing has twice is replaced by unused indices, since a schedule must not become shorter.

    Args:
        steps: number of rows.
        choices: number of times to choose from; index i is time (i + 1) / choices.
        pinned: whether time 1 is always among them, as for a start from the prior.
    """

    def __init__(self, steps: int, choices: int = 1000, pinned: bool = True) -> None:
        if not 1 <= steps <= choices:
            raise ValueError(f"steps: expected 1 to {choices} (choices), got {steps!r}")
        self.steps, self.choices, self.pinned = steps, choices, pinned

    def candidate(self, indices: Sequence[int]) -> tuple[int, ...]:
        """In the space's own form.

        Raises:
            ValueError: a wrong number of indices, one twice, or one out of range.
        """
        made = tuple(sorted(set(indices), reverse=True))
        if (
            len(made) != self.steps
            or len(indices) != self.steps
            or not 0 <= made[-1] <= made[0] < self.choices
        ):
            raise ValueError(
                f"indices: expected {self.steps} distinct ones from 0 to {self.choices - 1}, got {list(indices)}"
            )
        return made

    def nearest(self, grid: TimeGrid) -> tuple[int, ...]:
        """The candidate nearest to a grid's times."""
        return self._filled([max(0, round(row.t * self.choices) - 1) for row in grid], random.Random(0))

    def grid(self, candidate: Sequence[int]) -> TimeGrid:
        """Its rows."""
        return TimeGrid.through([*((i + 1) / self.choices for i in candidate), 0.0])

    def first(self) -> tuple[int, ...]:
        """Uniform in time."""
        return self.candidate([round((i + 1) * self.choices / self.steps) - 1 for i in range(self.steps)])

    def draw(self, source: random.Random) -> tuple[int, ...]:
        """Indices without replacement."""
        return self._filled([], source)

    def mutate(self, candidate: Sequence[int], share: float, source: random.Random) -> tuple[int, ...]:
        """An index that changes becomes an unused one."""
        kept = [i for i in candidate if source.random() >= share]
        return self._filled(kept, source)

    def cross(self, one: Sequence[int], other: Sequence[int], source: random.Random) -> tuple[int, ...]:
        """Position by position."""
        return self._filled([source.choice(pair) for pair in zip(one, other, strict=True)], source)

    def _filled(self, indices: Sequence[int], source: random.Random) -> tuple[int, ...]:
        chosen = set(indices)
        if self.pinned and self.choices - 1 not in chosen:
            chosen = {*sorted(chosen)[: self.steps - 1], self.choices - 1}
        while len(chosen) < self.steps:
            chosen.add(source.randrange(self.choices))
        return self.candidate(tuple(chosen))


class Depths:
    """For every step the blocks that are left out, at most `budget` in all: plans of `denoisers.LayerSkip`.

    Args:
        steps: number of rows.
        blocks: names of the blocks that may be left out.
        budget: how many may be left out over all steps.
    """

    def __init__(self, steps: int, blocks: Sequence[str], budget: int) -> None:
        pairs = [(i, name) for i in range(steps) for name in sorted(blocks)]
        if not 0 <= budget <= len(pairs):
            raise ValueError(f"budget: expected 0 to {len(pairs)} blocks over all steps, got {budget!r}")
        self.steps, self.pairs, self.budget = steps, pairs, budget

    def plan(self, candidate: frozenset[tuple[int, str]]) -> list[list[str]]:
        """As `LayerSkip` takes it."""
        return [sorted(name for at, name in candidate if at == i) for i in range(self.steps)]

    def first(self) -> frozenset[tuple[int, str]]:
        """The whole network at every step."""
        return frozenset()

    def draw(self, source: random.Random) -> frozenset[tuple[int, str]]:
        """As many as the budget allows, or fewer."""
        return frozenset(source.sample(self.pairs, source.randint(0, self.budget)))

    def mutate(
        self, candidate: frozenset[tuple[int, str]], share: float, source: random.Random
    ) -> frozenset[tuple[int, str]]:
        """Each block of each step is turned over."""
        return self._within([p for p in self.pairs if (p in candidate) != (source.random() < share)], source)

    def cross(
        self, one: frozenset[tuple[int, str]], other: frozenset[tuple[int, str]], source: random.Random
    ) -> frozenset[tuple[int, str]]:
        """Block by block."""
        return self._within([p for p in self.pairs if p in source.choice((one, other))], source)

    def _within(self, chosen: list[tuple[int, str]], source: random.Random) -> frozenset[tuple[int, str]]:
        return frozenset(source.sample(chosen, min(len(chosen), self.budget)))


class Both:
    """Pairs of candidates of two spaces: times and depths searched together."""

    def __init__(self, one: Space, other: Space) -> None:
        self.spaces = one, other

    def first(self) -> tuple[Any, ...]:
        """Both firsts."""
        return tuple(space.first() for space in self.spaces)

    def draw(self, source: random.Random) -> tuple[Any, ...]:
        """One of each."""
        return tuple(space.draw(source) for space in self.spaces)

    def mutate(self, candidate: Any, share: float, source: random.Random) -> tuple[Any, ...]:
        """Each on its own."""
        return tuple(s.mutate(c, share, source) for s, c in zip(self.spaces, candidate, strict=True))

    def cross(self, one: Any, other: Any, source: random.Random) -> tuple[Any, ...]:
        """Each on its own."""
        return tuple(s.cross(a, b, source) for s, a, b in zip(self.spaces, one, other, strict=True))


class Found(NamedTuple):
    """What a search came to: the best candidate, its fitness, the best after each generation, and all it asked."""

    best: Any
    fitness: float
    history: list[float]
    known: dict[Hashable, float]


@dataclass
class EvolutionarySearch:
    """Keep the best, cross and mutate them, fill up at random; never ask for a fitness twice.

    With crossed = mutated = 0 all candidates after the first ones are drawn: random search, the control.

    Args:
        space: what is searched.
        fitness: candidate -> number, smaller is better.
        population: candidates of a generation.
        top: how many of all that are known are parents.
        crossed: children of two parents in a generation.
        mutated: changed parents in a generation.
        share: with which probability a part of a candidate mutates.
        given: further candidates of the first generation.
        drawn: whether generations are filled up by draws.
    """

    space: Space
    fitness: Callable[[Any], float]
    population: int = 50
    top: int = 10
    crossed: int = 25
    mutated: int = 35
    share: float = 0.1
    given: Sequence[Any] = field(default_factory=list)
    drawn: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.top <= self.population:
            raise ValueError(f"top: expected 1 to {self.population} (population), got {self.top}")
        if self.crossed < 0 or self.mutated < 0 or not 0 <= self.share <= 1:
            raise ValueError("crossed, mutated: expected counts >= 0; share: a number from 0 to 1")

    def run(self, asked: int, seed: int = 0) -> Found:
        """Search until the fitness of `asked` candidates is known, or no new ones are found.

        Args:
            asked: budget of fitness evaluations.
            seed: of everything random here.
        """
        if asked < 1:
            raise ValueError(f"asked: expected at least 1 evaluation of the fitness, got {asked}")
        source, known, history = random.Random(seed), {}, []  # type: tuple[random.Random, dict[Any, float], list[float]]
        generation = self._beginning(source)
        while True:
            fresh = [c for c in dict.fromkeys(generation) if c not in known][: asked - len(known)]
            known.update((c, float(self.fitness(c))) for c in fresh)
            history.append(min(known.values()))
            if not fresh or len(known) >= asked:
                break
            generation = self._next(known, source)
        best = min(known, key=known.__getitem__)
        return Found(best, known[best], history, known)

    def _beginning(self, source: random.Random) -> list[Any]:
        """The given ones, mutations of the first of them, and draws."""
        begun = [self.space.first(), *self.given]
        if self.mutated:
            begun += [self.space.mutate(begun[0], self.share, source) for _ in range(self.population // 2)]
        return self._filled(begun, source, {})

    def _next(self, known: dict[Any, float], source: random.Random) -> list[Any]:
        parents = sorted(known, key=known.__getitem__)[: self.top]
        pick = lambda: source.choice(parents)  # noqa: E731
        children = [self.space.cross(pick(), pick(), source) for _ in range(self.crossed)]
        children += [self.space.mutate(pick(), self.share, source) for _ in range(self.mutated)]
        return self._filled(children, source, known)

    def _filled(self, made: list[Any], source: random.Random, known: dict[Any, float]) -> list[Any]:
        """Up to a whole population of candidates that are new, as far as draws find any."""
        for _ in range(20 * self.population if self.drawn else 0):
            new = {c for c in made if c not in known}
            if len(new) >= self.population:
                break
            made.append(self.space.draw(source))
        return made

"""Breadth-first search through every state that a model can reach, remembering the way to each."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a way: who did what."""

    who: int
    """Worker by its place in the state before the step; -1: nobody (the broker, the network)."""
    what: str


@dataclass(frozen=True, slots=True)
class Found(Generic[S]):
    """A state that breaks a promise, and the shortest way there."""

    problem: str
    steps: list[tuple[Step, bool]]
    """Each step, and whether the two workers changed places after it."""
    state: S


@dataclass(frozen=True, slots=True)
class Explored(Generic[S]):
    """What a search saw.  Without `found` it was complete: there is no other reachable state."""

    states: int
    transitions: int
    settled: int
    """States in which nothing is left to do: where the final promises were checked."""
    found: Found[S] | None


@dataclass(frozen=True, slots=True)
class Model(Generic[S]):
    """successors: (step, state, is it a fault) of each action possible now.

    normal: the representative of all states that differ only in the workers' names, and whether they
    changed places.  problem: the promise that is broken here, or None.
    """

    first: S
    successors: Callable[[S], Iterable[tuple[Step, S, bool]]]
    normal: Callable[[S], tuple[S, bool]]
    is_settled: Callable[[S], bool]
    problem: Callable[[S], str | None]


def explore(model: Model[S], *, states_max: int) -> Explored[S]:
    """Every reachable state, nearest first, until a promise is broken.

    A state from which only faults lead on, and in which work is left, is a broken promise too: stuck.
    Raises `RuntimeError` beyond `states_max`: a bound of the model does not bound.
    """
    first, _ = model.normal(model.first)
    came_from: dict[S, tuple[S, Step, bool] | None] = {first: None}
    level, transitions, settled = [first], 0, 0

    def explored(problem: str | None, state: S) -> Explored[S]:
        found = None if problem is None else Found(problem, _way(came_from, state), state)
        return Explored(len(came_from), transitions, settled, found)

    while level:
        beyond: list[S] = []
        for state in level:
            goes_on = False
            for step, reached, is_fault in model.successors(state):
                transitions += 1
                goes_on = goes_on or not is_fault
                after, swapped = model.normal(reached)
                if after in came_from:
                    continue
                came_from[after] = (state, step, swapped)
                problem = model.problem(after)
                if problem is not None:
                    return explored(problem, after)
                beyond.append(after)
            if model.is_settled(state):
                settled += 1
            elif not goes_on:
                return explored("stuck: work is left, and nobody can go on", state)
        if len(came_from) > states_max:
            raise RuntimeError(f"more than {states_max} states: a bound of the model is missing")
        level = beyond
    return explored(None, first)


def _way(came_from: dict[S, tuple[S, Step, bool] | None], state: S) -> list[tuple[Step, bool]]:
    steps = []
    while (origin := came_from[state]) is not None:
        state, step, swapped = origin
        steps.append((step, swapped))
    return steps[::-1]

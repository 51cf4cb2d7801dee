"""Few adapters: every partition that could be better, verified in the twin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pytwin.errors import ConfigError
from pytwin.fleet.placement.baselines import Parts
from pytwin.fleet.placement.problem import Items
from pytwin.fleet.placement.verify import Verifier

MOST_ITEMS = 8


def check_few(count: int) -> None:
    """Refuse more items than all of whose partitions can be tried.

    Raises
    ------
    ConfigError: one line.
    """
    if count > MOST_ITEMS:
        raise ConfigError(
            f"method (exact) takes at most {MOST_ITEMS} adapters x copies, here {count}: "
            "use auto or milp"
        )


def fewest(verifier: Verifier, items: Items, below: int | None = None) -> Parts | None:
    """A verified partition into the fewest replicas, below a number of them; None if there is none.

    Subsets are simulated when a partition needs them; partitions are tried by rising number of
    replicas, so that the first that holds is optimal.
    """
    most = len(items) if below is None else min(len(items), below - 1)
    for replicas in range(1, most + 1):
        for parts in partitions(sorted(items), replicas):
            if all(
                _holds(verifier, part) for part in sorted(parts, key=lambda p: (-len(p), sorted(p)))
            ):
                return parts
    return None


def most_served(verifier: Verifier, items: Items, replicas: int) -> Parts:
    """Disjoint verified sets, at most `replicas`, of the most offered tokens; perhaps none."""
    problem = verifier.problem
    possible = [part for part in subsets(sorted(items)) if not problem.clash(part)]
    good = [p for p, v in zip(possible, verifier.best(possible), strict=True) if v.ok]
    best: dict[Items, Parts] = {frozenset(): ()}
    for _ in range(replicas):
        grown = dict(best)
        for union, parts in best.items():
            for part in good:
                if not part & union:
                    grown.setdefault(union | part, (*parts, part))
        best = grown
    whole = [u for u in best if _all_copies(verifier, u)]
    chosen = max(whole, key=lambda u: (round(sum(problem.loads[k] for k in u), 9), -len(best[u])))
    return tuple(sorted(best[chosen], key=sorted))


def _all_copies(verifier: Verifier, union: Items) -> bool:
    """Whether every adapter that is placed has all of its copies placed."""
    problem = verifier.problem
    placed = {problem.adapter_of(item) for item in union}
    return len(union) == len(placed) * problem.copies


def partitions(items: Sequence[int], replicas: int) -> Iterator[Parts]:
    """Every partition into exactly so many sets."""
    if replicas == 1:
        if items:
            yield (frozenset(items),)
        return
    if len(items) < replicas:
        return
    first, rest = items[0], items[1:]
    for extra in _subsets(rest, empty=True):
        left = [item for item in rest if item not in extra]
        for parts in partitions(left, replicas - 1):
            yield (frozenset({first, *extra}), *parts)


def subsets(items: Sequence[int]) -> list[Items]:
    """Every set but the empty one, after all of its own subsets."""
    return [frozenset(part) for part in _subsets(items)]


def _subsets(items: Sequence[int], *, empty: bool = False) -> Iterable[tuple[int, ...]]:
    for mask in range(0 if empty else 1, 1 << len(items)):
        yield tuple(item for bit, item in enumerate(items) if mask >> bit & 1)


def _holds(verifier: Verifier, part: Items) -> bool:
    return not verifier.problem.clash(part) and verifier.best([part])[0].ok

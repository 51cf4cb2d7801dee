"""Makes a failing case as small as it goes while it still fails."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Json = dict[str, Any]
# What a request can do without, beside its prompt and max_tokens.
OPTIONAL = ("stop_at", "lora_id", "priority", "arrival_time", "prefix_group")
MAX_TRIALS = 3000


class _Trials:
    """Asks the predicate, at most MAX_TRIALS times and never twice for one case."""

    def __init__(self, fails: Callable[[Json], bool], limit: int) -> None:
        self._fails = fails
        self._left = limit
        self._seen: dict[str, bool] = {}

    @property
    def exhausted(self) -> bool:
        return self._left <= 0

    def __call__(self, case: Json) -> bool:
        key = json.dumps(case, sort_keys=True)
        if key not in self._seen:
            if self.exhausted:
                return False
            self._left -= 1
            self._seen[key] = self._fails(case)
        return self._seen[key]


def shrink(case: Json, fails: Callable[[Json], bool], max_trials: int = MAX_TRIALS) -> Json:
    """The smallest case found that still fails.

    Args:
        case: a case (not materialised) for which `fails` holds.
        fails: tells whether a case still shows the difference; a case that cannot be run does not.
        max_trials: an upper bound on the calls of `fails`.
    """
    trials = _Trials(fails, max_trials)
    best = copy.deepcopy(case)
    while not trials.exhausted:
        size = _size(best)
        for key in ("requests", "aborts", "lora_preload"):
            best = _fewer(best, key, trials)
        best = _first_that_fails(best, _without_settings, trials)
        best = _first_that_fails(best, _without_options, trials)
        best = _first_that_fails(best, _smaller_numbers, trials)
        if _size(best) == size:
            break
    return best


def _size(case: Json) -> tuple[int, int]:
    text = json.dumps(case, sort_keys=True)
    numbers = sum(sum(v for v in r.values() if isinstance(v, int)) for r in case["requests"])
    return len(text), numbers


def _fewer(case: Json, key: str, fails: _Trials) -> Json:
    """Delta debugging over the list `case[key]`: halves first, then ever smaller parts."""
    items: list[Any] = list(case.get(key) or [])
    part = len(items)
    while part >= 1 and items:
        for start in range(0, len(items), part):
            rest = items[:start] + items[start + part :]
            if fails({**case, key: rest}):
                items = rest
                break
        else:
            part //= 2
            continue
        part = min(part, len(items))
    return {**case, key: items} if key in case else case


def _first_that_fails(
    case: Json, smaller: Callable[[Json], Iterator[Json]], fails: _Trials
) -> Json:
    """Takes the first smaller case that fails, and again from there until none does."""
    while True:
        found = next((candidate for candidate in smaller(case) if fails(candidate)), None)
        if found is None:
            return case
        case = found


def _without_settings(case: Json) -> Iterator[Json]:
    config = case.get("config", {})
    for name in config:
        yield {**case, "config": {k: v for k, v in config.items() if k != name}}


def _without_options(case: Json) -> Iterator[Json]:
    for name in OPTIONAL:  # from all requests at once, then one by one
        gone = {name, "prefix_len"} if name == "prefix_group" else {name}
        holders = [k for k, request in enumerate(case["requests"]) if name in request]
        for chosen in ([holders] if len(holders) > 1 else []) + [[k] for k in holders]:
            yield _with_requests(case, chosen, _dropping(gone))


def _smaller_numbers(case: Json) -> Iterator[Json]:
    for k, request in enumerate(case["requests"]):
        for name, least in (("arrival_step", 0), ("max_tokens", 1), ("prompt_len", 1)):
            value = request.get(name, least)
            for smaller in (least, value // 2, value - 1):
                if least <= smaller < value:
                    yield _with_requests(case, [k], _setting(name, smaller))


def _dropping(names: set[str]) -> Callable[[Json], Json]:
    return lambda request: {k: v for k, v in request.items() if k not in names}


def _setting(name: str, value: int) -> Callable[[Json], Json]:
    return lambda request: {**request, name: value}


def _with_requests(case: Json, chosen: Sequence[int], change: Callable[[Json], Json]) -> Json:
    requests = [change(r) if k in chosen else r for k, r in enumerate(case["requests"])]
    return {**case, "requests": requests}

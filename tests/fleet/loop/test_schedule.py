"""Placements one after the other: who serves whom, and when."""

from hypothesis import given, settings
from hypothesis import strategies as st

import pytwin as pt
from pytwin.fleet.loop import Schedule

SERVER = pt.EngineConfig(
    profile="llama-3.1-8b-instruct@h100-64gb", max_loras=4, max_cpu_loras=8, max_lora_rank=16
)
NAMES = "abcdef"
BIN_S = 100.0


def schedule(startup_s: float, *placements: list[str]) -> Schedule:
    made = Schedule(SERVER, startup_s)
    for turn, sets in enumerate(placements):
        made.place(turn * BIN_S, [frozenset(names) for names in sets])
    return made


def serving(made: Schedule, at_s: float) -> list[set[str]]:
    """Adapters that each replica takes requests for at a time, read off replicas and events."""
    held = []
    events = sorted(made.events(NAMES), key=lambda event: event.at_s)
    for number, replica in enumerate(made.replicas(NAMES)):
        names = set(replica.adapters or ())
        for event in events:
            if event.replica == number and event.at_s <= at_s:
                (names.add if event.action == "load" else names.discard)(event.adapter)
        ready = replica.start_s + replica.startup_s <= at_s
        gone = replica.stop_s is not None and replica.stop_s <= at_s
        held.append(names if ready and not gone else set())
    return held


def test_the_first_placement_is_there_from_the_start():
    made = schedule(30.0, ["ab", "cd"])
    assert serving(made, 0.0) == [{"a", "b"}, {"c", "d"}]
    assert (made.moves, made.started) == (0, 0)


def test_a_move_between_running_replicas_is_immediate():
    made = schedule(30.0, ["ab", "cd"], ["a", "bcd"])
    assert serving(made, 99.9) == [{"a", "b"}, {"c", "d"}]
    assert serving(made, 100.0) == [{"a"}, {"b", "c", "d"}]
    assert (made.moves, made.started) == (1, 0)


def test_a_new_replica_takes_over_when_it_is_ready():
    made = schedule(30.0, ["abc"], ["ab", "c"])
    assert serving(made, 129.9) == [{"a", "b", "c"}, set()]
    assert serving(made, 130.0) == [{"a", "b"}, {"c"}]
    assert made.replicas(NAMES)[1].start_s == 100.0
    assert (made.moves, made.started) == (0, 1)


def test_a_copy_stays_until_the_new_one_is_ready():
    made = schedule(30.0, ["ab", "ac"], ["ab", "c", "a"])
    assert serving(made, 129.9) == [{"a", "b"}, {"a", "c"}, set()]
    assert serving(made, 130.0) == [{"a", "b"}, {"c"}, {"a"}]


def test_a_replica_stops_when_its_adapters_are_served_elsewhere():
    made = schedule(30.0, ["ab", "cd"], ["abcd"])
    assert made.replicas(NAMES)[1].stop_s == 100.0
    assert serving(made, 100.0) == [{"a", "b", "c", "d"}, set()]
    assert made.moves == 2


def test_adapters_unknown_to_the_traffic_are_left_out():
    made = schedule(0.0, ["ab", "cd"], ["a", "bcd"])
    assert made.replicas({"a", "c"})[0].adapters == ("a",)
    assert made.events({"a", "c"}) == []


homes_of_all = st.lists(
    st.sets(st.integers(0, 3), min_size=1, max_size=3), min_size=len(NAMES), max_size=len(NAMES)
)
placements = st.lists(homes_of_all, min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(placements, st.sampled_from([0.0, 30.0, 170.0]), st.data())
def test_every_adapter_is_served_at_all_times(homes, startup_s, data):
    made = Schedule(SERVER, startup_s)
    for turn, where in enumerate(homes):
        sets = [{n for n, home in zip(NAMES, where, strict=True) if k in home} for k in range(4)]
        made.place(turn * BIN_S, [frozenset(names) for names in sets if names])
    for replica in made.replicas(NAMES):
        assert replica.stop_s is None or replica.stop_s >= replica.start_s + replica.startup_s
    times = [event.at_s for event in made.events(NAMES)] + [
        replica.stop_s for replica in made.replicas(NAMES) if replica.stop_s is not None
    ]
    for at_s in [0.0, *times, data.draw(st.floats(0.0, 900.0))]:
        held = serving(made, at_s)
        assert set().union(*held) == set(NAMES), at_s
        if startup_s > BIN_S:
            continue  # changes overlap: one of the copies is all that is promised
        turn = min(int(at_s / BIN_S), len(homes) - 1)
        for number, name in enumerate(NAMES):
            copies = [len(homes[k][number]) for k in (max(turn - 1, 0), turn)]
            assert sum(name in names for names in held) >= min(copies), (at_s, name)
    # When all is started, the last placement is what runs.
    assert sorted(map(sorted, (s for s in serving(made, 1e9) if s))) == sorted(
        map(sorted, made.placement)
    )

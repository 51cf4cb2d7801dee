from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytwin.record import events as ev

RUN = "20260101T000000-1"


def header(**changed: Any) -> ev.Header:
    config = {"num_blocks": 21, "block_size": 4, "max_loras": 2, "max_cpu_loras": 2}
    fields: dict[str, Any] = {
        "vllm": "0.32.0", "config": config, "t": 0.5, "unix": 1000.5, "format": ev.FORMAT,
        "run": RUN, "model": {"name": "tiny"},
    }  # fmt: skip
    return ev.Header(**{**fields, **changed})


def step(i: int, sched: list[tuple[str, int, int, str]], **changed: Any) -> ev.Step:
    fields: dict[str, Any] = {
        "i": i, "t0": 2.0 + i, "t1": 2.1 + i, "t2": 2.8 + i, "t3": 2.9 + i, "added": [],
        "sched": sched, "tokens": sum(entry[1] for entry in sched), "preempted": [],
        "nrun": len({entry[0] for entry in sched}), "nwait": 0, "free": 15, "loras": [5],
    }  # fmt: skip
    return ev.Step(**{**fields, **changed})


def steps_file() -> list[ev.Event]:
    """Two requests: "a" (adapter 5) makes three tokens, "b" (base model) is cancelled."""
    return [
        header(),
        step(0, [("a", 6, 0, "N")], added=["a"]),
        step(2, [("a", 1, 6, "C"), ("b", 4, 0, "N")], added=["b"], nskip=1),
        step(3, [("a", 1, 7, "C"), ("b", 3, 4, "C")], fin={"a": ("length", 3)}),
        ev.Mark(t=6.5, cost=0.001),
    ]


def requests_file() -> list[ev.Event]:
    return [
        ev.File(format=ev.FORMAT, run=RUN),
        ev.Req(t=1.9, id="a", step=0, arrival=1001.8, prompt=6, max_tokens=3, lora=5),
        ev.Adapter(id=5, name="five"),
        ev.Req(t=3.9, id="b", step=2, arrival=1003.8, prompt=9, max_tokens=3),
        ev.Abort(t=5.95, id="b", step=4),
        ev.Mark(t=6.5),
    ]


def worker_file() -> list[ev.Event]:
    return [
        ev.File(format=ev.FORMAT, run=RUN),
        ev.Worker(device="a processor", weights=100, kv=50),
        ev.LoraLoad(t=1.0, id=9, dt=0.2, rank=16),
        ev.LoraActivate(t=1.1, id=9, slot=0, dt=0.1),
        ev.LoraLoad(t=2.21, id=5, dt=0.02, rank=8),
        ev.LoraActivate(t=2.23, id=5, slot=1, dt=0.01),
        ev.Exec(k=0, t=2.2, dt=0.4, tokens=6, reqs=1, lora_order=[5], step=0),
        ev.Sample(t=2.6, dt=0.05),
        ev.Exec(k=1, t=4.2, dt=0.4, tokens=5, reqs=2, lora_order=[5], step=2),
        ev.Sample(t=4.6, dt=0.05),
        ev.Exec(k=2, t=5.2, dt=0.4, tokens=4, reqs=2, lora_order=[5], step=3),
        ev.Sample(t=5.6, dt=0.05),
        ev.Gpu(k=1, dt=0.39),
        ev.Mark(t=6.5, cost=0.002),
    ]


FILES: dict[str, Callable[[], list[ev.Event]]] = {
    "steps.jsonl": steps_file,
    "requests.jsonl": requests_file,
    "worker.jsonl": worker_file,
}


def lines(events: Iterable[ev.Event]) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


def write(directory: Path, **changed: list[ev.Event] | bytes | None) -> Path:
    """A recording; `steps=...` takes the place of steps.jsonl, None leaves the file out."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        content = changed.get(name.removesuffix(".jsonl"), make())
        if content is not None:
            data = content if isinstance(content, bytes) else lines(content)
            (directory / name).write_bytes(data)
    return directory


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write(tmp_path / "run")


def read_json(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]

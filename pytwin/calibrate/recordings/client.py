"""What the client saw of a recorded run: when it sent each request, when tokens came.

`client.json` beside a recording (or beside its directory) is either a timed client's (`requests`:
id, sent, token_times, in seconds of the machine's monotonic clock) or what `vllm bench serve
--save-detailed` wrote (`start_times`, `ttfts`, `itls`, whose clock is the same on Linux). Where
there is none, the API server's own account stands in: first and last token of each request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytwin.errors import DataError
from pytwin.record.events import Req, Served
from pytwin.record.read import Recording

FloatArray = npt.NDArray[np.float64]

# vllm bench serve numbers its requests; the API server and the engine append to that.
_BENCH_ID = re.compile(r"-(\d+)-\d+-[0-9a-f]+$")
# A request that the client sent this long after the server had it (s): another clock.
_CLOCK_SLACK_S = 0.01


@dataclass(frozen=True)
class ClientRequest:
    """One request at the client; seconds of the monotonic clock."""

    sent_s: float
    token_times_s: FloatArray


@dataclass(frozen=True)
class Client:
    """A client's view; requests by the server's id.

    kind: timed, bench (vllm bench serve), or api (the API server's, of first and last tokens).
    """

    kind: str
    requests: Mapping[str, ClientRequest]


def read_client(recording: Recording) -> tuple[Client | None, list[str]]:
    """The client's file beside a recording, matched to the server's requests; remarks on it.

    None where there is no such file, or where it cannot be matched (a remark says why).

    Raises
    ------
    DataError: the file is not JSON, or of neither form.
    """
    path = _beside(recording.path)
    if path is None:
        served = _served(recording)
        where = "the engine" if served is None else "the API server"
        return served, [f"{recording.name} has no client.json: requests are timed at {where}"]
    document = load_json(path)
    if "start_times" in document:
        client, remark = _bench(recording, document)
    elif isinstance(document.get("requests"), list):
        client, remark = _timed(recording, document["requests"])
    elif "ttfts" in document or "input_lens" in document:
        return None, [f"{path} has no start_times: its requests cannot be told apart"]
    else:
        raise DataError(
            f"{path} is no client's file: it must hold requests, or what vllm bench serve "
            "--save-detailed writes"
        )
    if client is None:
        return None, [f"{path} is left out: {remark}"]
    early = sum(
        request.visible_s < client.requests[request.id].sent_s - _CLOCK_SLACK_S
        for request in _arrivals(recording)
        if request.id in client.requests
    )
    if early:
        return None, [f"{path} is left out: its clock is not the server's ({early} requests early)"]
    remarks = [f"{recording.name}: {remark}"] if remark else []
    return client, remarks


def _beside(directory: Path) -> Path | None:
    """In the recording's directory, or in the one above it if this is the only recording there."""
    if (directory / "client.json").is_file():
        return directory / "client.json"
    above = directory.parent / "client.json"
    alone = sum(
        any(other.glob("*.jsonl")) for other in directory.parent.iterdir() if other.is_dir()
    )
    return above if above.is_file() and alone == 1 else None


def _served(recording: Recording) -> Client | None:
    """From frontend-PID.jsonl: latencies since the request's arrival at the API server."""
    header = recording.header
    arrival = {r.id: r.arrival - header.unix + header.t for r in recording.of(Req)}
    found = {}
    for served in recording.of(Served):
        begun = arrival.get(served.id)
        if begun is None or served.ttft is None:
            continue
        times = [begun + served.ttft, begun + served.e2e][: max(served.out, 1)]
        found[served.id] = ClientRequest(begun, np.array(times))
    return Client("api", found) if found else None


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; DataError in one line otherwise."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} is not JSON ({reason}): save the result again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} ({type(document).__name__}) must hold a JSON object")
    return document


@dataclass(frozen=True)
class _Arrival:
    id: str
    visible_s: float
    prompt: int


def _arrivals(recording: Recording) -> list[_Arrival]:
    return [_Arrival(request.id, request.t, request.prompt) for request in recording.of(Req)]


def _timed(recording: Recording, entries: list[Any]) -> tuple[Client | None, str]:
    by_id: dict[str, ClientRequest] = {}
    for number, entry in enumerate(entries):
        try:
            times = np.array(entry["token_times"], dtype=np.float64)
            by_id[str(entry["id"])] = ClientRequest(float(entry["sent"]), times)
        except (KeyError, TypeError, ValueError):
            return None, f"requests[{number}] needs id, sent and token_times"
    found = {}
    for arrival in _arrivals(recording):
        # vLLM appends "-" and eight hexadecimal digits to the id that it was given.
        given = arrival.id if arrival.id in by_id else arrival.id.rsplit("-", 1)[0]
        given = given if given in by_id else given.removeprefix("cmpl-").rsplit("-", 1)[0]
        if given in by_id:
            found[arrival.id] = by_id[given]
    return _whole("timed", found, len(_arrivals(recording)))


def _bench(recording: Recording, document: Mapping[str, Any]) -> tuple[Client | None, str]:
    try:
        starts = [float(value) for value in document["start_times"]]
        firsts = [float(value) for value in document["ttfts"]]
        later = [[float(value) for value in values] for values in document["itls"]]
        prompts = [int(value) for value in document["input_lens"]]
    except (KeyError, TypeError, ValueError):
        return None, "it needs start_times, ttfts, itls and input_lens (--save-detailed)"
    found = {}
    for arrival in _arrivals(recording):
        match = _BENCH_ID.search(arrival.id)
        number = int(match.group(1)) if match else -1
        # The server may count one token more (a beginning-of-sequence token).
        if not 0 <= number < len(starts) or abs(prompts[number] - arrival.prompt) > 1:
            continue
        times = starts[number] + np.cumsum([firsts[number], *later[number]])
        found[arrival.id] = ClientRequest(starts[number], times)
    return _whole("bench", found, len(_arrivals(recording)))


def _whole(kind: str, found: dict[str, ClientRequest], expected: int) -> tuple[Client | None, str]:
    if not found:
        return None, "none of its requests is the server's"
    left = expected - len(found)
    return Client(kind, found), f"{left} requests are not in client.json" if left else ""

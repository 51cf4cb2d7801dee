"""A client that sends requests at their times and notes when their tokens come back.

Needs the standard library alone. One HTTP connection per request, streamed; times are seconds of
the monotonic clock, which recorder and client share on one machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
LEAD_S = 0.5  # between the call and the first arrival's time zero
FIRST_TOKEN = 10  # ids below are special


@dataclass
class Sent:
    """One request: what was asked, and what came back when."""

    id: str
    t: float  # seconds after the start
    prompt_len: int
    max_tokens: int
    lora: str | None = None
    sent: float = 0.0
    token_times: list[float] = field(default_factory=list)
    n_out: int = 0
    status: str = "ok"

    def row(self) -> Json:
        """As a row of client.json."""
        return dict(vars(self))


async def drive(
    requests: Sequence[Sent], *, port: int, model: str, vocab: int, timeout_s: float
) -> Json:
    """Sends every request at its time; returns the content of client.json.

    Args:
        requests: in the order of their times; filled in.
        port: of the server on this machine.
        model: its served name.
        vocab: tokens are drawn below it.
        timeout_s: after the last arrival; what has not ended by then has status `timeout`.
    """
    start = time.monotonic() + LEAD_S
    last = max((request.t for request in requests), default=0.0)
    deadline = start + last + timeout_s
    await asyncio.gather(
        *(_one(request, start, deadline, port, model, vocab) for request in requests)
    )
    ends = [times[-1] for times in (r.token_times for r in requests) if times]
    return {
        "format": 1,
        "start": start,
        "duration_s": max(ends, default=start) - start,
        "requests": [request.row() for request in requests],
    }


async def _one(
    request: Sent, start: float, deadline: float, port: int, model: str, vocab: int
) -> None:
    await asyncio.sleep(max(0.0, start + request.t - time.monotonic()))
    draw = random.Random(request.id)  # noqa: S311 -- repeatable, not secret
    body = {
        "model": request.lora or model,
        "prompt": [draw.randrange(FIRST_TOKEN, vocab) for _ in range(request.prompt_len)],
        "max_tokens": request.max_tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    request.sent = time.monotonic()
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - request.sent):
            async for event in _stream(port, "/v1/completions", body, {"X-Request-Id": request.id}):
                now = time.monotonic()
                made = (event.get("usage") or {}).get("completion_tokens", request.n_out)
                if event.get("choices"):
                    request.token_times += [now] * (made - request.n_out)
                    request.n_out = made
    except TimeoutError:
        request.status = "timeout"
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        request.status = f"{type(error).__name__}: {error}"[:200]
    if request.status == "ok" and request.n_out == 0:
        request.status = "no tokens"


async def _stream(
    port: int, path: str, body: Json, headers: Mapping[str, str]
) -> AsyncIterator[Json]:
    """POSTs, and yields the server-sent events of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await writer.drain()
        status = (await reader.readline()).split(None, 2)
        chunked = False
        while (line := await reader.readline()).strip():
            chunked |= line.lower().startswith(b"transfer-encoding") and b"chunked" in line
        if len(status) < 2 or status[1] != b"200":
            answer = (await reader.read()).decode(errors="replace")
            raise ValueError(f"HTTP {status[1:2]}: {' '.join(answer.split())}")
        text = b""
        async for piece in _pieces(reader, chunked=chunked):
            text += piece
            *events, text = text.split(b"\n\n")
            for event in events:
                payload = event.removeprefix(b"data: ").strip()
                if payload and payload != b"[DONE]":
                    yield json.loads(payload)
    finally:
        writer.close()


async def _pieces(reader: asyncio.StreamReader, *, chunked: bool) -> AsyncIterator[bytes]:
    if not chunked:
        while piece := await reader.read(1 << 16):
            yield piece
        return
    while size := int((await reader.readline()).split(b";")[0] or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readline()

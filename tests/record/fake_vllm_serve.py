"""Stands in for a Python with vLLM in it: answers /health and streams made-up tokens.

Called as `python -m vllm.entrypoints.cli.main serve MODEL ... --port N`. With PYTWIN_RECORD it
puts the recording of FAKE_RECORDING there; a model called "broken" does not start.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["model"] == "unknown":
            body = b'{"error": "no such model"}'
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        made = 0
        while made < asked["max_tokens"]:
            made = min(made + 2, asked["max_tokens"])  # two tokens to an event
            usage = {"completion_tokens": made, "prompt_tokens": len(asked["prompt"])}
            self.event({"choices": [{"text": "w"}], "usage": usage})
            time.sleep(0.002)
        self.event({"choices": [], "usage": {"completion_tokens": made}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, payload: object) -> None:
        text = b"data: " + json.dumps(payload).encode() + b"\n\n"
        self.chunk(text[:7])  # an event need not come in one piece
        self.chunk(text[7:])

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        return


def main() -> None:
    words = sys.argv[1:]
    print(" ".join(words), flush=True)
    if "broken" in words:
        sys.exit("ValueError: no memory for the KV cache")
    if "PYTWIN_RECORD" in os.environ:
        shutil.copytree(os.environ["FAKE_RECORDING"], Path(os.environ["PYTWIN_RECORD"]) / "run-1")
    port = int(words[words.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()

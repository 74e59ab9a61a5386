"""The scripted upstream as a process of its own, asked and steered over HTTP."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from cli.launch import environment
from tests.support.server import eventually


class UpstreamProcess:
    """What the upstream saw; calls are found by the text of their last message."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}/v1"

    def calls(self, text: str) -> list[dict[str, Any]]:
        """The calls whose last message has this text in it."""
        known = httpx.get(f"http://127.0.0.1:{self.port}/control/calls").json()["calls"]
        return [call for call in known if text in last_text(call["body"])]

    def call(self, text: str) -> dict[str, Any]:
        """The one call with this text, once it has come."""
        [found] = eventually(lambda: self.calls(text))
        return found

    def script(self, *parts: dict[str, Any]) -> None:
        """Say how to answer the next calls: parts of a script, each with its `kind`."""
        url = f"http://127.0.0.1:{self.port}/control/script"
        httpx.post(url, json=list(parts)).raise_for_status()

    def closed_call(self, text: str) -> dict[str, Any]:
        """The one call with this text, once its client has gone away before the end."""

        def closed() -> list[dict[str, Any]]:
            return [call for call in self.calls(text) if call["closed_at"]]

        [found] = eventually(closed)
        return found


def last_text(body: Any) -> str:
    """The last message's text, or the prompt."""
    if not isinstance(body, dict):
        return ""
    messages = body.get("messages")
    return json.dumps(messages[-1]["content"] if messages else body.get("prompt", ""))


@contextmanager
def running_upstream(
    *, ttft_ms: float = 0, token_ms: float = 0, module: str = "upstream"
) -> Iterator[UpstreamProcess]:
    """Run it, ended with the block; `module` of tests.support says which."""
    command = (sys.executable, "-m", f"tests.support.{module}")
    process = subprocess.Popen(
        [*command, "--ttft-ms", str(ttft_ms), "--token-ms", str(token_ms)],
        stdout=subprocess.PIPE,
        env=environment({}),
    )
    try:
        assert process.stdout is not None
        yield UpstreamProcess(json.loads(process.stdout.readline())["port"])
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()

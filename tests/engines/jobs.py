"""Jobs for engines, and a sink that keeps what it gets."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.commands import Kind
from workers.inference.engines import Captured, Generation

KINDS = {"chat": "chatcmpl-1", "completion": "cmpl-1", "embedding": "embd-1", "count": "count-1"}


def make_job(
    body: dict[str, Any],
    *,
    kind: Kind = "chat",
    stream: bool = True,
    include_usage: bool = True,
    seconds: float = 60.0,
    captured: list[bytes] | None = None,
    state: bytes = b"",
) -> Generation:
    """A job as the worker makes it of a client's body."""
    return Generation(
        run_id="run_1",
        public_id=KINDS[kind],
        kind=kind,
        model="our/model",
        served_name="their-model",
        created=1_700_000_001,
        body=msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw]),
        stream=stream,
        include_usage=include_usage,
        deadline=time.time() + seconds,
        captured=None if captured is None else Captured(captured, state),
    )


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A chat request's body with one user message; the likeliest answer unless told otherwise."""
    messages = [{"role": "user", "content": text}]
    return {"model": "our/model", "messages": messages, "temperature": 0, **more}


class Collector:
    """A sink that keeps all chunks and says when the first came."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.states: list[bytes] = []  # what was given with each of `sends`
        self.began = asyncio.Event()
        self.sends: list[int] = []
        self.crowded = False
        self.drained = asyncio.Event()

    def send(self, chunks: Sequence[bytes], state: bytes = b"") -> None:
        """Keep chunks."""
        self.states.append(state)
        self.chunks += chunks
        self.sends.append(len(chunks))
        self.began.set()

    def backlog(self) -> int:
        """More than any limit while crowded."""
        return 1 << 30 if self.crowded else 0

    async def drain(self) -> None:
        """Wait until the test calls it drained."""
        await self.drained.wait()
        self.crowded = False

    def parsed(self) -> list[dict[str, Any]]:
        """The chunks as objects."""
        return [msgspec.json.decode(chunk) for chunk in self.chunks]

    def text(self, index: int = 0) -> str:
        """The text of one choice."""
        return "".join(
            choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            for chunk in self.parsed()
            for choice in chunk["choices"]
            if choice["index"] == index
        )

    def finish_reasons(self) -> dict[int, str]:
        """Why each choice ended."""
        return {
            choice["index"]: choice["finish_reason"]
            for chunk in self.parsed()
            for choice in chunk["choices"]
            if choice["finish_reason"]
        }

    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of choice 0, put together."""
        calls: list[dict[str, Any]] = []
        for chunk in self.parsed():
            for choice in chunk["choices"]:
                for piece in choice["delta"].get("tool_calls") or ():
                    if piece.get("id"):
                        calls.append({"name": piece["function"]["name"], "arguments": ""})
                    calls[piece["index"]]["arguments"] += piece["function"].get("arguments") or ""
        return calls

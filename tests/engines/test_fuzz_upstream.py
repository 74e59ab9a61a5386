"""The openai engine against an upstream that sends anything at all, over a real socket.

Whatever comes: it ends in time, it ends with a JanError or well, and well only if a second, strict
reader of the same bytes finds the same text and its end. And the next request works.
"""

import asyncio
import itertools
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import JanError, UpstreamTimeout
from schemas.providers import OpenAIOptions, OpenAIProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from tests.support.raw import End, RawServer, Script, open_raw_server
from workers.inference.engines.openai import OpenAIEngine

SCALE = int(os.environ.get("JAN_FUZZ_SCALE", "1"))  # more for a longer search
PATIENCE = 0.3  # seconds: each of the engine's limits
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def _chunk(delta: dict[str, Any], end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": end}
    fields = {"id": "theirs-1", "object": "chat.completion.chunk", "created": 7, "model": "theirs"}
    return json.dumps({**fields, "choices": [choice]}, ensure_ascii=False).encode()


_TEXTS = ["Hel", "lö ", '"w\\orld"\n', "日本", " 🌍", "!"]
EVENTS = [
    _chunk({"role": "assistant", "content": ""}),
    *(_chunk({"content": text}) for text in _TEXTS),
    _chunk({}, "stop"),
    b'{"id":"theirs-1","model":"theirs","choices":[],"usage":{"total_tokens":7}}',
    b"[DONE]",
]
BODY = b"".join(b"data: " + event + b"\n\n" for event in EVENTS)


def _framed(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunked transfer coding, in chunks of these sizes, again and again."""
    framed, at, turn = b"", 0, 0
    while at < len(body):
        piece = body[at : at + sizes[turn % len(sizes)]]
        framed += b"%x\r\n%b\r\n" % (len(piece), piece)
        at, turn = at + len(piece), turn + 1
    return framed + b"0\r\n\r\n"


WIRE = CHUNKED + _framed(BODY, [97])
GOOD = Script([WIRE])


# The second reader: strict, slow, from the standards and the standard library alone.


@dataclass
class Reading:
    """What there is to read in an answer, up to its end or its first fault."""

    chunks: list[dict[str, Any]]
    finished: bool = False  # a finish reason was there
    faulty: bool = False


def _dechunk(wire: bytes) -> bytes:
    """RFC 9112 §7.1: the content as far as the coding is intact."""
    content = b""
    while True:
        line, found, rest = wire.partition(b"\r\n")
        size = re.fullmatch(rb"([0-9A-Fa-f]+)(?:[ \t]*;[^\r\n]*)?[ \t]*", line)
        if not found or not size or int(size[1], 16) == 0:
            return content
        length = int(size[1], 16)
        content += rest[:length]
        if rest[length : length + 2] != b"\r\n":
            return content
        wire = rest[length + 2 :]


def _content(wire: bytes) -> bytes:
    head, _, content = wire.partition(b"\r\n\r\n")
    if re.search(rb"transfer-encoding: *chunked", head, re.IGNORECASE):
        return _dechunk(content)
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return content[: int(length[1])] if length else content


def _payloads(body: bytes) -> Iterator[bytes]:
    """The HTML standard, §9.2.6; an event that the end cut off counts, too."""
    data: list[bytes] = []
    for line in [*re.split(rb"\r\n|\n|\r", body.removeprefix(b"\xef\xbb\xbf")), b""]:
        name, _, value = line.partition(b":")
        if not line and b"".join(data):
            yield b"\n".join(data)
        if not line:
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _read(body: bytes) -> Reading:
    reading = Reading([])
    for payload in _payloads(body):
        if payload == b"[DONE]":
            break
        try:
            chunk = json.loads(payload.decode(), parse_constant=_no_constant)
            if chunk.get("usage") is not None:
                chunk.setdefault("choices", [])  # usage alone is no fault
            ends = [choice.get("finish_reason") for choice in chunk["choices"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            reading.faulty = True
            break
        reading.finished = reading.finished or any(ends)
        reading.chunks.append(chunk)
    return reading


def _nameless(chunk: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chunk.items() if name not in ("id", "model")}


class World:
    """One server, one engine and their loop, for all examples."""

    def __init__(self, runner: asyncio.Runner, server: RawServer) -> None:
        self.runner = runner
        self.server = server
        options = OpenAIOptions(
            connect_s=2, first_byte_s=PATIENCE, first_token_s=PATIENCE, between_s=PATIENCE
        )
        self.engine = OpenAIEngine(
            OpenAIProvider(
                name="remote",
                kind="openai",
                base_url=f"http://127.0.0.1:{server.port}/v1",
                models=MODELS,
                options=options,
            )
        )

    def check(self, script: Script) -> bool:
        """Run one example; tell whether the engine took the answer for a good one."""
        return self.runner.run(self._check(script))

    async def _check(self, script: Script) -> bool:
        self.server.script(script)
        sink = Collector()
        began = time.monotonic()
        succeeded = True
        async with asyncio.timeout(20):
            try:
                outcome = await self.engine.generate(make_job(chat("x")), sink)
                assert outcome.finish_reason
            except JanError:
                succeeded = False
        assert time.monotonic() - began < PATIENCE * 3 + 5  # room for a busy machine
        self._compare(sink, b"".join(self.server.served[-1].segments), succeeded)
        await self._check_pool()
        return succeeded

    def _compare(self, sink: Collector, wire: bytes, succeeded: bool) -> None:
        reading = _read(_content(wire))
        got = [_nameless(json.loads(chunk)) for chunk in sink.chunks]
        want = [_nameless(chunk) for chunk in reading.chunks]
        assert got == want[: len(got)]
        if succeeded:
            assert reading.finished
            assert not reading.faulty or "finish_reason" in str(got[-1])
            assert len(got) == len(want)

    async def _check_pool(self) -> None:
        sink = Collector()
        try:
            await self.engine.generate(make_job(chat("x")), sink)
        except UpstreamTimeout:  # a busy machine
            sink = Collector()
            await self.engine.generate(make_job(chat("x")), sink)
        assert sink.text() == "".join(_TEXTS)
        await self.server.settle(1)
        ours = {asyncio.current_task(), *self.server.tasks}
        assert not [task for task in asyncio.all_tasks() if task not in ours]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        context = open_raw_server(GOOD)
        server = runner.run(context.__aenter__())
        opened = World(runner, server)
        yield opened
        runner.run(opened.engine.close())
        runner.run(context.__aexit__(None, None, None))


def fuzz(examples: int) -> Any:
    """Hypothesis, bounded."""
    return settings(
        max_examples=examples * SCALE,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


_CUTS = st.lists(st.integers(0, len(WIRE)), max_size=8)
_NOISE = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b": ping\n\n", b"data: [DONE]\n\n",
            b"event: error\n", b"\x00", b"\xff", b"\xf0\x9f", b"\xef\xbb\xbf", b"{", b"[]", b"null",
            b"retry: 1\nid: 7\n", b'data: {"error":{"message":"no"}}\n\n', b"data: [1]\n\n",
            b'data: {"message":"no"}\n\n', b"\\", b'"', b"\\u", b"data: NaN\n\n", b"[" * 3000,
        ]
    ),
)  # fmt: skip
_CHANGES = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 10_000), st.integers(1, 255)),
    st.tuples(st.just("insert"), st.integers(0, 10_000), _NOISE),
    st.tuples(st.just("delete"), st.integers(0, 10_000), st.integers(1, 60)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.none()),
    st.tuples(st.just("double"), st.integers(0, 10_000), st.none()),
)
_ENDS: st.SearchStrategy[End] = st.sampled_from(["keep", "fin", "half", "rst"])


def _segments(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def _changed(data: bytes, change: tuple[str, int, Any]) -> bytes:
    kind, at, what = change
    at %= len(data) + 1
    match kind:
        case "flip" if at < len(data):
            return data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
        case "insert":
            return data[:at] + what + data[at:]
        case "delete":
            return data[:at] + data[at + what :]
        case "cut":
            return data[:at]
        case "double":
            begin = max(data.rfind(b"data: ", 0, at), 0)
            end = data.find(b"\n\n", begin) + 2
            return data[:end] + data[begin:end] + data[end:]
    return data


@fuzz(200)
@given(_CUTS, st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_a_good_stream_is_one_in_any_segments(
    world: World, cuts: list[int], sizes: list[int]
) -> None:
    assert world.check(Script(_segments(CHUNKED + _framed(BODY, sizes), cuts)))


@fuzz(400)
@given(st.integers(0, len(WIRE) - 1), _CUTS, _ENDS.filter(lambda end: end != "keep"))
def test_a_stream_cut_anywhere_is_never_a_wrong_success(
    world: World, cut: int, cuts: list[int], end: End
) -> None:
    done = WIRE.index(b"[DONE]")
    succeeded = world.check(Script(_segments(WIRE[:cut], cuts), end))
    if succeeded and cut:  # cut is 0: a kept connection's request may be repeated
        assert cut > WIRE.index(b'"stop"')
    if not succeeded:
        assert cut < done + 8


@fuzz(400)
@given(
    st.lists(_CHANGES, min_size=1, max_size=3),
    st.lists(st.integers(1, 300), min_size=1, max_size=4),
    _CUTS,
)
def test_a_changed_body_is_read_as_it_is_or_refused(
    world: World, changes: list[tuple[str, int, Any]], sizes: list[int], cuts: list[int]
) -> None:
    body = BODY
    for change in changes:
        body = _changed(body, change)
    world.check(Script(_segments(CHUNKED + _framed(body, sizes), cuts), "fin"))


@fuzz(400)
@given(st.lists(_CHANGES, min_size=1, max_size=2), _CUTS, _ENDS.filter(lambda end: end != "keep"))
def test_changed_bytes_on_the_wire_are_never_a_wrong_success(
    world: World, changes: list[tuple[str, int, Any]], cuts: list[int], end: End
) -> None:
    wire = WIRE
    for change in changes:
        wire = _changed(wire, change)
    world.check(Script(_segments(wire, cuts), end))


@fuzz(200)
@given(st.integers(0, 2 * len(BODY)), st.sampled_from(["keep", "fin", "rst"]))
def test_a_wrong_content_length_is_never_a_wrong_success(
    world: World, length: int, end: End
) -> None:
    end = "fin" if length > len(BODY) else end
    world.check(Script([HEAD + b"Content-Length: %d\r\n\r\n" % length, BODY], end))


@fuzz(12)
@given(st.integers(0, len(WIRE) - 1), st.sampled_from(["hang", "keep"]))
def test_an_upstream_that_hangs_anywhere_is_left_in_time(world: World, cut: int, end: End) -> None:
    succeeded = world.check(Script([WIRE[:cut]] if cut else [], end))
    end_of_text = WIRE.index(b'"stop"')
    assert not succeeded or cut > end_of_text
    assert succeeded or cut < end_of_text + 100


@fuzz(10)
@given(st.integers(0, len(EVENTS) - 2), st.integers((1 << 20) + 1, 3 << 20), st.booleans())
def test_a_huge_line_is_refused_without_keeping_it(
    world: World, before: int, size: int, is_data: bool
) -> None:
    good = b"".join(b"data: " + event + b"\n\n" for event in EVENTS[:before])
    body = good + (b"data: " if is_data else b": ") + b"x" * size
    world.check(Script([CHUNKED, _framed(body, [65_536])], "fin"))

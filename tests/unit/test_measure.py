"""The bench's load against its own upstream: what is counted, and what is summed up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cli.measure import scenarios
from cli.measure.load import Load, Plan, Result
from cli.measure.upstream import FAST, PACED, Connection, Numbers

Answer = bytes


@asynccontextmanager
async def serving(make: object) -> AsyncIterator[str]:
    """Serve a protocol on a free port; gives the base URL."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, "127.0.0.1", 0)  # type: ignore[arg-type]
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def plan(url: str, **more: object) -> Plan:
    """A small load."""
    given = {"model": FAST, "stream": True, "tokens": 16, "in_flight": 4, "limit": 20, **more}
    return Plan(url=url, seconds=30.0, **given)  # type: ignore[arg-type]


class Scripted(asyncio.Protocol):
    """Answers every request with the same bytes, a few at a time."""

    def __init__(self, answer: Answer, step: int) -> None:
        self._answer = answer
        self._step = step

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        assert isinstance(self._transport, asyncio.Transport)
        for start in range(0, len(self._answer), self._step):
            self._transport.write(self._answer[start : start + self._step])


def chunked(*events: bytes) -> Answer:
    """A streamed answer of these events."""
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def token(index: int) -> bytes:
    """A chunk with one token, due long ago."""
    return b'{"choices":[{"delta":{"content":"%d@0 "}}]}' % index


@pytest.mark.parametrize("model", [FAST, PACED])
async def test_every_token_of_every_stream_is_counted(model: str) -> None:
    numbers = Numbers()
    async with serving(lambda: Connection(numbers)) as url:
        result = await Load(plan(url, model=model, limit=8)).run()
    assert (result.requests, result.failed) == (8, 0)
    assert (result.tokens, result.lost, result.doubled) == (8 * 16, 0, 0)
    assert len(result.latency) == len(result.first_token) == 8


async def test_answers_that_are_not_streamed_are_counted() -> None:
    numbers = Numbers()
    async with serving(lambda: Connection(numbers)) as url:
        result = await Load(plan(url, stream=False)).run()
    assert (result.requests, result.failed, result.tokens) == (20, 0, 0)


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_lost_doubled_and_late_tokens_are_seen(step: int) -> None:
    answer = chunked(token(0), token(1), token(1), token(3), b"[DONE]")
    async with serving(lambda: Scripted(answer, step)) as url:
        result = await Load(plan(url, model=PACED, tokens=4, in_flight=1, limit=2)).run()
    assert (result.requests, result.tokens) == (2, 6)
    assert (result.lost, result.doubled, result.late) == (2, 2, 6)


async def test_a_refused_request_is_told() -> None:
    answer = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}"
    async with serving(lambda: Scripted(answer, 100)) as url:
        result = await Load(plan(url, limit=3)).run()
    assert (result.requests, result.failed) == (0, 3)
    assert result.first_failure == "status 503: {}"


def test_a_row_says_what_the_server_adds() -> None:
    through = Result(requests=2, seconds=1.0, latency=[5.0, 7.0], tokens=10, first_token=[2.0, 4.0])
    straight = Result(requests=4, seconds=1.0, latency=[1.0, 2.0], tokens=20, first_token=[1.0, 1])
    row = scenarios.to_row(
        scenarios.Scenario("stream", 1),
        scenarios.to_measures(through),
        scenarios.to_measures(straight),
        {"edge": 0.001},
    )
    assert row.added_p50 == pytest.approx(5.0)
    assert row.added_first_token_p50 == pytest.approx(3.0)
    assert row.cpu_us_per_token == {"edge": pytest.approx(100.0)}
    assert row.cpu_us_per_request == {"edge": pytest.approx(500.0)}


@pytest.mark.parametrize(("share", "value"), [(0.5, 51), (0.99, 100), (0.0, 1), (1.0, 100)])
def test_a_quantile_is_one_of_the_values(share: float, value: int) -> None:
    assert scenarios.quantile(list(range(1, 101)), share) == value

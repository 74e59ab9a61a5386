"""The load: a process of its own, with a lean HTTP/1.1 client, that measures what it gets.

Reads one Plan as JSON from the standard input and prints one Result.
"""

import asyncio
import itertools
import sys
import time
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

LATE = 100_000  # microseconds behind the schedule
_PROMPT = "Tell me, in as many words as it takes, how a message finds its way through a queue."


class Plan(msgspec.Struct):
    """What to send: `in_flight` requests at a time, for `seconds` or until `limit` were sent."""

    url: str
    model: str
    stream: bool
    tokens: int
    in_flight: int
    seconds: float
    limit: int = 1_000_000
    api_key: str = ""
    spread: float = 0.0  # seconds over which the first requests are spread
    conversations: list[str] = []  # in which the requests are made, in turn; none: in none
    history: list[dict[str, str]] = []  # messages that come before what each request says
    store: bool = False  # as stored completions
    rate: float = 0.0  # requests a second; 0: as many as are answered


class Result(msgspec.Struct):
    """What came back; times in milliseconds, in the order that the requests ended."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    latency: list[float] = []
    first_token: list[float] = []
    tokens: int = 0
    lost: int = 0
    doubled: int = 0
    late: int = 0
    worst_late: float = 0.0
    first_failure: str = ""


State = Literal["head", "body", "size", "chunk"]


class Client(asyncio.Protocol):
    """One connection with one request at a time on it."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._state: State = "head"
        self._left = 0
        self._events = b""
        self._status = 0
        self._busy = False
        self._started = 0.0
        self._first = 0.0
        self._next = 0
        self._seen: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.send()

    def send(self) -> None:
        """Send a request when it is due, or close if the load is over."""
        assert self._transport is not None
        if not self._load.take():
            self._transport.close()
            return
        wait = self._load.until_due()
        if wait > 0:
            asyncio.get_running_loop().call_later(wait, self._send)
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._state = "head"
        self._events = b""
        self._first = 0.0
        self._next = 0
        self._seen.clear()
        self._busy = True
        self._started = time.monotonic()
        self._transport.write(next(self._load.requests))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """Count what was cut off."""
        if self._busy:
            self._busy = False
            self._load.fail("the connection was closed in the middle of an answer")
        self._load.leave()

    def data_received(self, data: bytes) -> None:
        """Take the answer apart."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer and self._step():
            pass

    def _step(self) -> bool:
        match self._state:
            case "head":
                return self._head()
            case "body":
                return self._body()
            case "size":
                return self._size()
            case "chunk":
                return self._chunk()

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._buffer[:end].lower()
        self._buffer = self._buffer[end + 4 :]
        self._status = int(head[9:12])
        at = head.find(b"content-length:")
        if at >= 0:
            self._left = int(head[at + 15 :].split(b"\r\n", 1)[0])
            self._state = "body"
        else:
            self._state = "size"
        return True

    def _body(self) -> bool:
        if len(self._buffer) < self._left:
            return False
        body, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._end(body)
        return False

    def _size(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        self._left = int(self._buffer[:end], 16)
        self._buffer = self._buffer[end + 2 :]
        self._state = "chunk"
        return True

    def _chunk(self) -> bool:
        if len(self._buffer) < self._left + 2:
            return False
        chunk, self._buffer = self._buffer[: self._left], self._buffer[self._left + 2 :]
        self._state = "size"
        if not chunk:
            self._end(self._events)
            return False
        *events, self._events = (self._events + chunk).split(b"\n\n")
        if self._load.plan.stream and self._status == 200:
            now = time.monotonic()
            for event in events:
                self._token(event, now)
        else:
            self._events = b"\n\n".join([*events, self._events])
        return True

    def _token(self, event: bytes, now: float) -> None:
        """Read the index and the due time that a token carries, and hold them to the schedule."""
        at = event.find(b'"content":"')
        if at < 0:
            return
        text = event[at + 11 : event.find(b'"', at + 11)]
        index_text, mark, due = text.partition(b"@")
        if not mark:
            return
        if not self._first:
            self._first = now
        index = int(index_text)
        result = self._load.result
        if index in self._seen:
            result.doubled += 1
            return
        self._seen.add(index)
        behind = now * 1e6 - int(due)
        if behind > LATE and self._load.paced:
            result.late += 1
        result.worst_late = max(result.worst_late, behind / 1000)

    def _end(self, body: bytes) -> None:
        self._busy = False
        load, now = self._load, time.monotonic()
        if self._status != 200:
            load.fail(f"status {self._status}: {body[:200].decode(errors='replace')}")
        else:
            result = load.result
            result.requests += 1
            result.latency.append((now - self._started) * 1000)
            if load.plan.stream:
                result.tokens += len(self._seen)
                result.lost += load.plan.tokens - len(self._seen)
                result.first_token.append((self._first - self._started) * 1000)
        self.send()


class Load:
    """The whole load: how much is left to send, and what was measured."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.result = Result()
        self.requests = itertools.cycle(
            [_request(plan, {"conversation": name}) for name in plan.conversations]
            or [_request(plan, {})]
        )
        self.paced = "paced" in plan.model
        self._left = plan.limit
        self._began = 0.0
        self._until = 0.0
        self._open = plan.in_flight
        self._over = asyncio.Event()

    def take(self) -> bool:
        """Take one request from what is left; False when the load is over."""
        if self._left <= 0 or time.monotonic() >= self._until:
            return False
        self._left -= 1
        return True

    def until_due(self) -> float:
        """How long the request that was taken last has to wait, at a steady rate."""
        if not self.plan.rate:
            return 0.0
        number = self.plan.limit - self._left - 1
        return self._began + number / self.plan.rate - time.monotonic()

    def fail(self, why: str) -> None:
        """Count a request that was not answered."""
        self.result.failed += 1
        self.result.first_failure = self.result.first_failure or why
        if self.result.failed >= 100:  # the server is broken: no use in going on
            self._left = 0

    def leave(self) -> None:
        """A connection is closed."""
        self._open -= 1
        if not self._open:
            self._over.set()

    async def run(self) -> Result:
        """Run to the end; at most a minute longer than planned."""
        target = urlsplit(self.plan.url)
        host, port = target.hostname or "127.0.0.1", target.port or 80
        loop = asyncio.get_running_loop()
        self._began = started = time.monotonic()
        self._until = started + self.plan.seconds
        for _ in range(self.plan.in_flight):
            await loop.create_connection(lambda: Client(self), host, port)
            if self.plan.spread:
                await asyncio.sleep(self.plan.spread / self.plan.in_flight)
        async with asyncio.timeout(self.plan.seconds + 60):
            await self._over.wait()
        self.result.seconds = time.monotonic() - started
        return self.result


def _request(plan: Plan, more: dict[str, str]) -> bytes:
    target = urlsplit(plan.url)
    body = msgspec.json.encode(
        {
            "model": plan.model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant."},
                *plan.history,
                {"role": "user", "content": _PROMPT},
            ],
            "max_tokens": plan.tokens,
            "temperature": 0.7,
            **({"stream": True} if plan.stream else {}),
            **({"store": True} if plan.store else {}),
            **more,
        }
    )
    head = (
        f"POST {target.path}/chat/completions HTTP/1.1\r\nhost: {target.netloc}\r\n"
        f"authorization: Bearer {plan.api_key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    """Run the plan on the standard input, print the result."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    result = await Load(plan).run()
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    uvloop.run(main())

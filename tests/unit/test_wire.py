"""The bus on the wire: messages arrive whole however the socket cuts them, and leave in order."""

import asyncio
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus.wire import FastReader, Message, Writer, header_value

HEADERS = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Last-Sequence: 3\r\n\r\n"


class Client:
    """The part of nats-py's client that the reader calls for what is not ours."""

    def __init__(self) -> None:
        self.slow: list[tuple[int, bytes, bytes, bytes, bytes | None]] = []
        self.control: list[Any] = []

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self.slow.append((sid, subject, reply, data, headers))

    async def _process_ping(self) -> None:
        self.control.append("ping")

    async def _process_pong(self) -> None:
        self.control.append("pong")

    async def _process_err(self, text: str) -> None:
        self.control.append(text)

    async def _process_info(self, info: Any) -> None:
        self.control.append(info)


def read(pieces: list[bytes]) -> tuple[list[Message], Client]:
    """Feed the pieces to a reader that handles subscription 1 itself."""
    client = Client()
    reader = FastReader(client)
    got: list[Message] = []
    reader.handlers[b"1"] = got.append

    async def feed() -> None:
        for piece in pieces:
            await reader.parse(piece)

    asyncio.run(feed())
    return got, client


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut `data` at the given places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


payloads = st.binary(max_size=200) | st.sampled_from([b"\r\n", b"MSG a 1 3\r\n", b"PING\r\n"])


@given(st.lists(payloads, max_size=6), st.lists(st.integers(0, 5000), max_size=12))
def test_messages_arrive_whole_however_they_are_cut(bodies: list[bytes], places: list[int]) -> None:
    wire = b"PING\r\n"
    for body in bodies:
        wire += b"MSG a.b 1 %d\r\n%b\r\n" % (len(body), body)
        size = len(HEADERS)
        wire += b"HMSG a.b 1 re.ply %d %d\r\n%b%b\r\n" % (size, size + len(body), HEADERS, body)
    got, client = read(cut(wire + b"+OK\r\nPONG\r\n", places))
    assert [message.data for message in got] == [body for body in bodies for _ in range(2)]
    assert [message.headers for message in got] == [b"", HEADERS] * len(bodies)
    assert [message.reply for message in got] == [b"", b"re.ply"] * len(bodies)
    assert client.control == ["ping", "pong"]


def test_messages_of_other_subscriptions_go_to_nats_py() -> None:
    got, client = read([b"MSG x 2 r 2\r\nhi\r\nMSG x 3 2\r\nho\r\n-ERR 'No'\r\nINFO {\"a\":1}\r\n"])
    assert got == []
    assert client.slow == [(2, b"x", b"r", b"hi", None), (3, b"x", b"", b"ho", None)]
    assert client.control == ["'no'", {"a": 1}]


def test_a_failing_handler_does_not_end_the_reading() -> None:
    client = Client()
    reader = FastReader(client)
    got: list[bytes] = []

    def fail_once(message: Message) -> None:
        got.append(message.data)
        if len(got) == 1:
            raise ValueError("a fault in a handler")

    reader.handlers[b"1"] = fail_once
    asyncio.run(reader.parse(b"MSG a 1 1\r\na\r\nMSG a 1 1\r\nb\r\n"))
    assert got == [b"a", b"b"]


class Socket:
    """What reaches the socket, in its order."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, data: bytes) -> None:
        self.got += data

    def writelines(self, parts: list[bytes]) -> None:
        self.got += b"".join(parts)


class Holding:
    """nats-py's client while its flusher has something else to do."""

    def __init__(self, *held: bytes) -> None:
        self.is_connected = True
        self._transport = Socket()
        self._pending = list(held)
        self._pending_data_size = sum(map(len, held))


def test_a_request_does_not_overtake_the_subscription_of_its_answer() -> None:
    client: Any = Holding(b"SUB inbox 1\r\n")

    async def ask() -> None:
        writer = Writer(client)
        writer.write(b"PUB jobs inbox 0\r\n\r\n")
        writer.flush()

    asyncio.run(ask())
    assert client._transport.got == b"SUB inbox 1\r\nPUB jobs inbox 0\r\n\r\n"
    assert (client._pending, client._pending_data_size) == ([], 0), "it is not sent twice"


def test_nothing_is_taken_from_nats_py_while_disconnected() -> None:
    client: Any = Holding(b"SUB inbox 1\r\n")
    client.is_connected = False

    async def write() -> None:
        Writer(client).flush()

    asyncio.run(write())
    assert client._pending == [b"SUB inbox 1\r\n"]


def test_a_patient_writer_joins_what_is_written_a_turn_later() -> None:
    async def pieces(*, patient: bool) -> list[bytes]:
        client: Any = Holding()
        written: list[bytes] = []
        client._transport.write = written.append
        writer = Writer(client, patient=patient)
        writer.write(b"one ")
        asyncio.get_running_loop().call_soon(writer.write, b"two")
        for _ in range(4):
            await asyncio.sleep(0)
        return written

    assert asyncio.run(pieces(patient=True)) == [b"one two"]
    assert asyncio.run(pieces(patient=False)) == [b"one ", b"two"]


def test_headers_and_status_are_read_from_the_raw_block() -> None:
    assert header_value(HEADERS, b"Nats-Sequence") == b"7"
    assert header_value(HEADERS, b"Nats-Last-Sequence") == b"3"
    assert header_value(HEADERS, b"Sequence") is None
    assert Message(b"", b"", b"NATS/1.0 404 No Messages\r\n\r\n", b"").status == 404
    assert Message(b"", b"", b"NATS/1.0 503\r\n\r\n", b"").status == 503
    assert Message(b"", b"", HEADERS, b"").status == 0
    assert Message(b"", b"", b"", b"").status == 0

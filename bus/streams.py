"""Asks the server about its streams, and has what is in them erased."""

from typing import Final

import msgspec

from bus.connection import Bus
from schemas.errors import BusError

_ERASED: Final = frozenset({10037, 10043, 10057})  # there is no such message (any more)


class _StreamState(msgspec.Struct):
    first_seq: int
    last_seq: int
    messages: int = 0


class _Stream(msgspec.Struct):
    state: _StreamState


class _AckFloor(msgspec.Struct, frozen=True):
    stream_seq: int = 0


class _Consumer(msgspec.Struct):
    ack_floor: _AckFloor = _AckFloor()


class _Problem(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Erasure(msgspec.Struct):
    error: _Problem | None = None


_decode_stream = msgspec.json.Decoder(_Stream).decode
_decode_consumer = msgspec.json.Decoder(_Consumer).decode
_decode_erasure = msgspec.json.Decoder(_Erasure).decode


async def bounds(bus: Bus, stream: str) -> tuple[int, int]:
    """Ask for the first and the last sequence of a stream's messages. Raises BusError."""
    answer = await bus.ask(f"$JS.API.STREAM.INFO.{stream}", b"")
    state = _decode_stream(answer).state
    return state.first_seq, state.last_seq


async def erase(bus: Bus, stream: str, seq: int) -> None:
    """Overwrite a message in its stream's file. Idempotent. Raises BusError."""
    asked = msgspec.json.encode({"seq": seq, "no_erase": False})
    answer = await bus.ask(f"$JS.API.STREAM.MSG.DELETE.{stream}", asked, timeout=10.0)
    error = _decode_erasure(answer).error
    if error is not None and error.err_code not in _ERASED:
        raise BusError(error.description, err_code=error.err_code)


async def compact_empty(bus: Bus, stream: str) -> bool:
    """Drop a stream's files if it is empty; what comes meanwhile stays. Raises BusError."""
    state = _decode_stream(await bus.ask(f"$JS.API.STREAM.INFO.{stream}", b"")).state
    if state.messages:
        return False
    asked = msgspec.json.encode({"seq": state.last_seq + 1})
    await bus.ask(f"$JS.API.STREAM.PURGE.{stream}", asked, timeout=10.0)
    return True


async def ack_floor(bus: Bus, stream: str, consumer: str) -> int:
    """Ask up to where a consumer has nothing left to hand out. Raises BusError."""
    answer = await bus.ask(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", b"")
    return _decode_consumer(answer).ack_floor.stream_seq

"""A line of what `jan export` writes: one fact of the log, as JSON."""

import base64

import msgspec

from schemas.raw import OptionalRaw

_ACCEPTED = "events.run.accepted."
_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class ExportedFact(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of EVENTS: `time` is when the server stored it (unix seconds), `id` its own.

    `data` is the body. One that is not JSON on one line is in `base64` instead, so that it comes
    back byte by byte; but a client's request that was written over lines is put on one.
    """

    seq: int
    time: float
    subject: str
    id: str = ""
    data: OptionalRaw = None
    base64: str | None = None

    @property
    def body(self) -> bytes:
        """The body as it was. Raises ValueError if there is none."""
        if self.base64 is not None:
            return base64.b64decode(self.base64, validate=True)
        if self.data is None:
            raise ValueError("there is neither data nor base64")
        return bytes(self.data)


def export(seq: int, time: float, subject: str, msg_id: str, body: bytes) -> bytes:
    """Write a message as a line, with its end."""
    if subject.startswith(_ACCEPTED):
        body = body.translate(_LINE_ENDS)  # between JSON's tokens: never part of a text
    if _is_one_line_of_json(body):
        told = ExportedFact(seq, time, subject, msg_id, data=msgspec.Raw(body))
    else:
        encoded = base64.b64encode(body).decode()
        told = ExportedFact(seq, time, subject, msg_id, base64=encoded)
    return msgspec.json.encode(told) + b"\n"


def _is_one_line_of_json(body: bytes) -> bool:
    if b"\n" in body or b"\r" in body:
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


decode_exported = msgspec.json.Decoder(ExportedFact).decode

"""Runs that were refused: the request itself was at fault, and nothing came of it."""

import msgspec

from schemas.events import RunFinished


class _ErrorType(msgspec.Struct):
    type: str = ""


class _Envelope(msgspec.Struct):
    error: _ErrorType


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def is_refused(finished: RunFinished) -> bool:
    """Tell whether a run was refused: its messages would be in the way of every later one."""
    if finished.result is not None or finished.status != "failed" or finished.error is None:
        return False
    try:
        return _decode_envelope(finished.error).error.type == "invalid_request_error"
    except msgspec.DecodeError:
        return False

"""Errors in Anthropic's envelope."""

from typing import Any, Final

import msgspec

from schemas.errors import JanError

Json = dict[str, Any]

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class _Told(msgspec.Struct):
    message: str
    type: str = ""
    code: str | None = None
    param: str | None = None
    request_id: str | None = None


class _Envelope(msgspec.Struct):
    error: _Told


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_BY_TYPE: Final = {
    "invalid_request_error": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "rate_limit_error": "rate_limit_error",
}


def to_wire(error: JanError, request_id: str | None) -> bytes:
    """Encode an error; the field at fault is named in the message, as there is no other place."""
    status = error.http_status
    kind = "invalid_request_error" if 400 <= status < 499 else "api_error"
    told = _to_envelope(
        _TYPES.get(status, kind), error.message, error.param, error.wire_code, request_id
    )
    return msgspec.json.encode(told)


def told_to_wire(chunk: bytes) -> Json:
    """The event for the error with which a stream ends: our envelope, as its run tells it."""
    error = _decode_envelope(chunk).error
    kind = _BY_TYPE.get(error.type, "api_error")
    return _to_envelope(kind, error.message, error.param, error.code, error.request_id)


def _to_envelope(
    kind: str, message: str, param: str | None, code: str | None, request_id: str | None
) -> Json:
    if param is not None and param not in message:
        message = f"{param}: {message}"
    error: Json = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    return {"type": "error", "error": error, "request_id": request_id}

"""The error tree. A class says what the caller can do; its attributes are the wire facts.

JanError
├── InvalidRequest 400          the request must change; `param` names the field
│   ├── BodyTooLarge 413
│   └── MethodNotAllowed 405
├── Unauthorized 401            a credential is missing, wrong or expired
├── Forbidden 403
├── NotFound 404                also for what belongs to somebody else
│   └── ModelNotFound
├── Conflict 409
│   └── IdempotencyConflict
├── Gone 410                    it was there, and was taken back for good
├── RateLimited 429             retry after `retry_after` seconds
│   └── QueueFull
├── Cancelled 499               somebody stopped the run
├── InternalError 500
├── OutcomeUnknown 500          it may have been done or not: look, or repeat it with the same key
├── UpstreamError 502           the deployment failed; `retryable` says another may do better
│   ├── UpstreamRejected        the deployment refused the request itself: its 4xx is passed on
│   │   └── UpstreamNotFound 404 … as it has not what that names; another one may
│   ├── UpstreamRateLimited 429
│   └── UpstreamTimeout 504
├── Unavailable 503             a part is down; nothing was done
│   ├── BusUnavailable
│   └── EngineUnavailable       inside only: an engine can't be started; one line that says why
├── DeadlineExceeded 504
└── BusError                    inside only: what the bus answers
    ├── BusTimeout              the outcome is unknown
    ├── NoResponders
    └── WrongLastSequence       somebody else wrote to the subject (10071)
"""

from typing import Any, ClassVar

import msgspec


class JanError(Exception):
    """The root. `message` is for people; `param` names the request's field at fault."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        status: int | None = None,
        type: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.http_status = status or self.status
        self.wire_type = type or self.type
        self.wire_code = code or self.code

    def to_wire(self, request_id: str | None = None) -> bytes:
        """Encode the one error envelope."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.wire_type,
            "param": self.param,
            "code": self.wire_code,
            "request_id": request_id,
        }
        if self.retry_after is not None:
            error["retry_after"] = self.retry_after
        return msgspec.json.encode({"error": error})


class InvalidRequest(JanError):
    """The request must change; `param` names the field."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class BodyTooLarge(InvalidRequest):
    """The body is over the limit."""

    status = 413
    code = "body_too_large"


class MethodNotAllowed(InvalidRequest):
    """The route exists, but not for this method."""

    status = 405
    code = "method_not_allowed"


class Unauthorized(JanError):
    """A credential is missing, wrong or expired."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(JanError):
    """The credential is good, but not for this."""

    status = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(JanError):
    """There is no such thing, or it belongs to somebody else."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No such model is served."""

    code = "model_not_found"


class Conflict(JanError):
    """The request contradicts an earlier one."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class Gone(JanError):
    """It was there, and was taken back for good."""

    status = 410
    type = "invalid_request_error"
    code = "gone"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used with another body."""

    code = "idempotency_conflict"


class RateLimited(JanError):
    """Too many requests; `retry_after` says when to come back, in seconds."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True


class QueueFull(RateLimited):
    """The queue of this model's workers is full."""

    code = "queue_full"


class Cancelled(JanError):
    """Somebody stopped the run."""

    status = 499
    type = "cancelled"
    code = "cancelled"


class InternalError(JanError):
    """A fault of ours."""

    code = "internal_error"


class OutcomeUnknown(JanError):
    """The database went away while something was written: it may be there or not."""

    code = "outcome_unknown"


class UpstreamError(JanError):
    """The deployment failed; another one may do better."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"
    retryable = True


class UpstreamRejected(UpstreamError):
    """The deployment refused the request itself: its status and message are passed on."""

    status = 400
    type = "invalid_request_error"
    code = "upstream_rejected"
    retryable = False


class UpstreamNotFound(UpstreamRejected):
    """The deployment has not what the request names, mostly the model; another one may."""

    status = 404


class UpstreamRateLimited(UpstreamError):
    """The deployment has no capacity for us now."""

    status = 429
    type = "rate_limit_error"
    code = "upstream_rate_limited"


class UpstreamTimeout(UpstreamError):
    """The deployment did not answer in time."""

    status = 504
    code = "upstream_timeout"


class Unavailable(JanError):
    """A part is down; nothing was done."""

    status = 503
    type = "server_error"
    code = "unavailable"
    retryable = True


class BusUnavailable(Unavailable):
    """NATS can't be reached."""

    code = "bus_unavailable"


class EngineUnavailable(Unavailable):
    """An engine can't be started; the message is the one line that a person needs."""

    code = "engine_unavailable"


class DeadlineExceeded(JanError):
    """The run could not start or finish before its deadline."""

    status = 504
    code = "deadline_exceeded"


class BusError(JanError):
    """What the bus answers; never shown to clients as it is."""

    status = 503
    code = "bus_error"
    retryable = True

    def __init__(self, message: str, *, err_code: int = 0) -> None:
        super().__init__(message, code=self.code)
        self.err_code = err_code


class BusTimeout(BusError):
    """No answer came in time: the outcome is unknown."""


class NoResponders(BusError):
    """Nobody listens on the subject."""


class WrongLastSequence(BusError):
    """Somebody else wrote to the subject since (10071)."""

"""An upstream's answer that comes in one piece."""

from schemas.errors import UpstreamError
from workers.inference.engines.http import Headers

ANSWER_LIMIT = 64 << 20  # bytes
ERROR_LIMIT = 64 * 1024  # of an error, the beginning is enough


class BodyReader:
    """Collects an answer, up to `limit` bytes."""

    def __init__(self, limit: int = ANSWER_LIMIT) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit
        self.status = 0
        self.headers: Headers = {}

    def on_head(self, status: int, headers: Headers) -> None:
        """Keep status and headers."""
        self.status = status
        self.headers = headers

    def on_data(self, data: bytes) -> bool:
        """Keep a piece. Of an error, the beginning is enough."""
        self._parts.append(data)
        self._size += len(data)
        if self._size <= self._limit:
            return False
        if self.status == 200:
            raise UpstreamError("the provider's answer is too large")
        return True

    def body(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)

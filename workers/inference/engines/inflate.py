"""Compressed answers: inflated piece by piece, with bounds on what comes out."""

import zlib
from typing import Protocol

from schemas.errors import UpstreamError

PIECE = 256 * 1024  # bytes given out at once at most: what a read of the socket brings, too
# A stream of small JSON chunks, each flushed, shrinks by 10 to 30; zlib's utmost is about 1000.
_RATIO_LIMIT = 100
_RATIO_FREE = 4 << 20  # bytes that come out before the ratio counts: a short text may repeat itself


class Inflater(Protocol):
    """Undoes a content coding."""

    pending: bool  # more comes out without more going in

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return what they make, up to PIECE. Raises UpstreamError."""

    def is_whole(self) -> bool:
        """Tell whether what went in was complete."""


def to_inflater(codings: bytes) -> Inflater | None:
    """Choose what undoes a Content-Encoding; None if there is nothing to undo.

    Raises UpstreamError for what is not known here, such as `br`.
    """
    names = [name.strip().lower() for name in codings.split(b",")]
    match [name for name in names if name not in (b"", b"identity")]:
        case []:
            return None
        case [b"gzip" | b"x-gzip"]:
            return _Zlib(gzip=True)
        case [b"deflate"]:
            return _Zlib(gzip=False)
        case _:
            raise UpstreamError("the provider compressed its answer in an unknown way")


class Discard:
    """Stands for a body that can't be read and need not be."""

    pending = False

    def feed(self, _: bytes) -> bytes:
        """Forget the bytes."""
        return b""

    def is_whole(self) -> bool:
        """Nothing is missing of nothing."""
        return True


class _Zlib:
    """gzip, also in several members (RFC 1952 §2.2), and deflate, with zlib's head or without."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16) if gzip else None
        self._rest = b""
        self._taken = self._made = 0
        self._ended = False
        self.pending = False

    def feed(self, data: bytes) -> bytes:
        self._taken += len(data)
        data = self._rest + data if self._rest else data
        try:
            made = self._inflate(data)
        except zlib.error:
            raise UpstreamError("the provider's answer is not compressed as it says") from None
        self._made += len(made)
        if self._made > _RATIO_FREE + _RATIO_LIMIT * self._taken:
            raise UpstreamError("the provider's compressed answer grows beyond measure")
        return made

    def is_whole(self) -> bool:
        return self._ended or not self._taken

    def _inflate(self, data: bytes) -> bytes:
        if not data and not self.pending:
            return b""
        if self._inner is None:
            # RFC 9110 §8.4.1.2 wants zlib's head; some servers leave it out.
            has_head = data[0] & 0x0F == zlib.DEFLATED and data[0] >> 4 <= 7
            self._inner = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
        elif self._ended:
            if not self._gzip:
                raise zlib.error("data after the end")
            self._inner = zlib.decompressobj(zlib.MAX_WBITS | 16)
        made = self._inner.decompress(data, PIECE)
        self._ended = self._inner.eof
        self._rest = self._inner.unused_data if self._ended else self._inner.unconsumed_tail
        # A full piece: zlib may hold more even though it has taken all that went in.
        self.pending = bool(self._rest) or (len(made) == PIECE and not self._ended)
        return made

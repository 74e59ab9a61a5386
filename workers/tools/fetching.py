"""Fetching what strangers serve: guarded at every hop, bounded in size, time and redirects."""

import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from urllib.robotparser import RobotFileParser

import httpx2

from schemas.outbound import Blocked
from workers.runtime.guard import Guard
from workers.tools.outcome import Failed

AGENT: Final = "jan-server"

_MAX_REDIRECTS = 5
_HEADERS: Final = {
    "User-Agent": f"{AGENT}/0.1",
    "Accept": "text/html,application/xhtml+xml,application/pdf,text/plain;q=0.9,*/*;q=0.5",
    "Accept-Encoding": "gzip",  # the one that is unpacked here, within a bound
}
_AGAIN: Final = (408, 425, 429, 500, 502, 503, 504)
_ROBOTS_BYTES = 512 * 1024  # as RFC 9309 has it
_ROBOTS_KEPT = 3600.0
_ROBOTS_MOST = 1000  # sites


@dataclass(frozen=True)
class Fetched:
    """A response whose redirects were followed."""

    url: str
    status: int
    content_type: str
    data: bytes


async def fetch(client: httpx2.AsyncClient, guard: Guard, url: str, max_bytes: int) -> Fetched:
    """Get a URL, following its redirects, whatever its status. Raises Failed."""
    for _ in range(_MAX_REDIRECTS + 1):
        found = await _get(client, guard, url, max_bytes)
        if isinstance(found, Fetched):
            return found
        url = found
    raise Failed("too_many_redirects", f"The page redirects more than {_MAX_REDIRECTS} times.")


async def _get(client: httpx2.AsyncClient, guard: Guard, url: str, max_bytes: int) -> Fetched | str:
    """One hop: the response, or where it redirects to."""
    try:
        target = guard.check(url)
        async with client.stream("GET", target, headers=_HEADERS) as response:
            if response.has_redirect_location:
                return str(target.join(response.headers["location"]))
            data = await read_bounded(response, max_bytes)
    except Blocked as blocked:
        raise Failed("refused", f"The URL is not fetched: {blocked}.") from None
    except httpx2.TimeoutException:
        host = httpx2.URL(url).host
        raise Failed("timeout", f"{host} did not answer in time.", retryable=True) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        reason = f"{type(error).__name__}"
        raise Failed(
            "unreachable", f"The URL can't be fetched ({reason}).", retryable=True
        ) from None
    kind = response.headers.get("content-type", "")
    return Fetched(str(target), response.status_code, kind, data)


async def read_bounded(response: httpx2.Response, max_bytes: int) -> bytes:
    """Read a body that may be packed; neither form may be larger. Raises Failed."""
    too_large = Failed("too_large", f"The response is larger than {max_bytes} bytes.")
    if int(response.headers.get("content-length") or 0) > max_bytes:
        raise too_large
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise Failed(
            "unsupported_type", f"The response is packed in a way not asked for ({coding[:20]})."
        )
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > max_bytes:
            raise too_large
    if coding == "identity":
        return bytes(body)
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(bytes(body), max_bytes + 1)
    except zlib.error:
        raise Failed("unreachable", "The response is damaged.", retryable=True) from None
    if len(data) > max_bytes:
        raise too_large
    return data


def refuse_error(fetched: Fetched) -> None:
    """Raise Failed if a response says that something is wrong."""
    if fetched.status >= 400:
        raise Failed(
            "http_error",
            f"{fetched.url} answered with status {fetched.status}.",
            retryable=fetched.status in _AGAIN,
        )


class Robots:
    """What sites let programs fetch, remembered for an hour."""

    def __init__(self, client: httpx2.AsyncClient, guard: Guard) -> None:
        self._client = client
        self._guard = guard
        self._known: OrderedDict[str, tuple[float, RobotFileParser]] = OrderedDict()

    async def may_fetch(self, url: str) -> bool:
        """Whether the site of a URL lets programs have it. Raises Failed."""
        parsed = httpx2.URL(url)
        site = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        known = self._known.get(site)
        if known is None or known[0] < time.monotonic():
            known = time.monotonic() + _ROBOTS_KEPT, await self._read(site)
            self._known[site] = known
            while len(self._known) > _ROBOTS_MOST:
                self._known.popitem(last=False)
        return known[1].can_fetch(AGENT, url)

    async def _read(self, site: str) -> RobotFileParser:
        rules = RobotFileParser()
        found = await fetch(self._client, self._guard, f"{site}/robots.txt", _ROBOTS_BYTES)
        if found.status >= 500:  # RFC 9309: as if it forbade all
            rules.parse(["User-agent: *", "Disallow: /"])
        elif found.status >= 400:
            rules.parse([])
        else:
            rules.parse(found.data.decode("utf-8", "replace").splitlines())
        return rules

"""Search providers, each in its own wire format, asked one after the other until one answers."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog

from workers.tools.means import Means
from workers.tools.outcome import Failed
from workers.tools.settings import ToolsSettings

logger = structlog.get_logger()

_MAX_BYTES = 2 << 20
_SNIPPET = 500  # characters
_RANGES: Final = {
    "qdr:h": "day",
    "qdr:d": "day",
    "qdr:w": "week",
    "qdr:m": "month",
    "qdr:y": "year",
}


@dataclass(frozen=True)
class Query:
    """What to search for, in no provider's words."""

    text: str
    count: int = 10
    page: int = 1
    domains: tuple[str, ...] = ()
    country: str = ""  # two letters
    language: str = ""
    location: str = ""
    tbs: str = ""
    deep: bool = False

    @property
    def with_sites(self) -> str:
        """The text with operators for the domains, for providers that have no field for them."""
        sites = " OR ".join(f"site:{domain}" for domain in self.domains)
        return f"{self.text} ({sites})" if sites else self.text


class Hit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result."""

    position: int
    title: str
    url: str
    snippet: str
    published: str = ""


@dataclass(frozen=True)
class Found:
    """What a provider has found."""

    provider: str
    hits: list[Hit]


Ask = Callable[[httpx2.AsyncClient, ToolsSettings, Query], Awaitable[list[Any]]]


@dataclass(frozen=True)
class Provider:
    """A search provider: whether it is set, and how it is asked."""

    name: str
    is_set: Callable[[ToolsSettings], bool]
    ask: Ask


def providers_of(settings: ToolsSettings) -> list[Provider]:
    """Those that are set, in the order to ask."""
    return [provider for provider in PROVIDERS if provider.is_set(settings)]


async def search(means: Means, query: Query) -> Found:
    """Ask one provider after the other. Raises Failed if none answers."""
    failures = []
    for provider in providers_of(means.settings):
        try:
            with means.breakers.guard(f"search:{provider.name}", f"the search by {provider.name}"):
                found = await provider.ask(means.providers, means.settings, query)
            return Found(provider.name, _to_hits(found, query))
        except Failed as failed:
            logger.warning("a search failed", provider=provider.name, error=failed.message)
            failures.append(failed)
    told = "; ".join(failed.message for failed in failures)
    again = any(failed.retryable for failed in failures)
    raise Failed("unavailable", f"No search provider has answered: {told}", retryable=again)


def _to_hits(found: list[Any], query: Query) -> list[Hit]:
    hits: list[Hit] = []
    for title, url, snippet, published in found:
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            continue
        if query.domains and not _is_within(url, query.domains):
            continue
        hits.append(
            Hit(
                len(hits) + 1,
                _text(title, 300) or url,
                url,
                _text(snippet, _SNIPPET),
                _text(published, 40),
            )
        )
    return hits[: query.count]


def _text(value: Any, most: int) -> str:
    return " ".join(value.split())[:most] if isinstance(value, str) else ""


def _is_within(url: str, domains: tuple[str, ...]) -> bool:
    try:
        host = (urlsplit(url).hostname or "").lower()
    except ValueError:
        return False
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


async def _ask(
    client: httpx2.AsyncClient, name: str, method: str, url: str, **request: Any
) -> dict[str, Any]:
    """Ask a provider. Raises Failed, which never repeats a header or the provider's own words."""
    try:
        async with client.stream(method, url, **request) as response:
            if response.status_code != 200:
                message = f"{name} answered with status {response.status_code}"
                raise Failed("upstream_error", message, retryable=True)
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise Failed("upstream_error", f"{name} answered too much", retryable=True)
        found = msgspec.json.decode(body)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        message = f"{name} can't be reached ({type(error).__name__})"
        raise Failed("upstream_error", message, retryable=True) from None
    except msgspec.DecodeError:
        raise Failed("upstream_error", f"{name} answered no JSON", retryable=True) from None
    if not isinstance(found, dict):
        raise Failed("upstream_error", f"{name} answered no JSON object", retryable=True)
    return found


def _rows(found: dict[str, Any], name: str, *fields: str) -> list[Any]:
    rows = found.get(name)
    if not isinstance(rows, list):
        return []
    return [tuple(row.get(field) for field in fields) for row in rows if isinstance(row, dict)]


async def _ask_serper(
    client: httpx2.AsyncClient, settings: ToolsSettings, query: Query
) -> list[Any]:
    body: dict[str, Any] = {"q": query.with_sites, "num": query.count, "page": query.page}
    extra = {
        "gl": query.country,
        "hl": query.language,
        "location": query.location,
        "tbs": query.tbs,
    }
    found = await _ask(
        client,
        "Serper",
        "POST",
        f"{settings.serper_url}/search",
        json=body | {name: value for name, value in extra.items() if value},
        headers={"X-API-KEY": settings.serper_api_key.get_secret_value()},
    )
    return _rows(found, "organic", "title", "link", "snippet", "date")


async def _ask_tavily(
    client: httpx2.AsyncClient, settings: ToolsSettings, query: Query
) -> list[Any]:
    body: dict[str, Any] = {"query": query.text, "max_results": query.count}
    body["search_depth"] = "advanced" if query.deep else "basic"
    if query.domains:
        body["include_domains"] = list(query.domains)
    if query.tbs in _RANGES:
        body["time_range"] = _RANGES[query.tbs]
    key = settings.tavily_api_key.get_secret_value()
    found = await _ask(
        client,
        "Tavily",
        "POST",
        f"{settings.tavily_url}/search",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
    )
    return _rows(found, "results", "title", "url", "content", "published_date")


async def _ask_exa(client: httpx2.AsyncClient, settings: ToolsSettings, query: Query) -> list[Any]:
    body: dict[str, Any] = {"query": query.text, "numResults": query.count}
    body["contents"] = {"text": {"maxCharacters": _SNIPPET}}
    if query.domains:
        body["includeDomains"] = list(query.domains)
    if query.country:
        body["userLocation"] = query.country.upper()
    found = await _ask(
        client,
        "Exa",
        "POST",
        f"{settings.exa_url}/search",
        json=body,
        headers={"x-api-key": settings.exa_api_key.get_secret_value()},
    )
    return _rows(found, "results", "title", "url", "text", "publishedDate")


async def _ask_searxng(
    client: httpx2.AsyncClient, settings: ToolsSettings, query: Query
) -> list[Any]:
    parameters = {"q": query.with_sites, "format": "json", "pageno": str(query.page)}
    if query.language:
        parameters["language"] = query.language
    if query.tbs in _RANGES:
        parameters["time_range"] = _RANGES[query.tbs]
    url = f"{settings.searxng_url.rstrip('/')}/search"
    found = await _ask(client, "SearXNG", "GET", url, params=parameters)
    return _rows(found, "results", "title", "url", "content", "publishedDate")


PROVIDERS: Final = (
    Provider("Serper", lambda s: bool(s.serper_api_key.get_secret_value()), _ask_serper),
    Provider("Tavily", lambda s: bool(s.tavily_api_key.get_secret_value()), _ask_tavily),
    Provider("Exa", lambda s: bool(s.exa_api_key.get_secret_value()), _ask_exa),
    Provider("SearXNG", lambda s: bool(s.searxng_url), _ask_searxng),
)

"""`web_search`: results of a search on the web, each with its URL to cite."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.tool_options import McpHints, SearchFilters, UserLocation, WebSearchOptions
from schemas.tools import Citation
from workers.tools.means import Means
from workers.tools.outcome import Answer, Failed
from workers.tools.search import Found, Hit, Query, providers_of, search
from workers.tools.tool import Context, builtin

_STUB: Final = "made up"
_WARNING: Final = (
    "[These results are made up, as JAN_SEARCH_STUB is set: nothing was searched.]\n\n"
)
_COUNTS: Final = {"low": 5, "medium": 10, "high": 20}

Domain = Annotated[str, Meta(min_length=1, max_length=253, pattern=r"^[^\s/:@()\"]+$")]
Short = Annotated[str, Meta(max_length=100)]


class WebSearch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool's arguments."""

    q: Annotated[str, Meta(min_length=1, max_length=1000, description="What to search for.")]
    domain_allow_list: Annotated[
        list[Domain],
        Meta(max_length=20, description="Only results of these domains, such as example.com."),
    ] = []
    num: Annotated[int, Meta(ge=1, le=20, description="How many results.")] | None = None
    page: Annotated[int, Meta(ge=1, le=10, description="Which page of results.")] = 1
    gl: Annotated[str, Meta(max_length=2, description="Country, two letters: us, de.")] = ""
    hl: Annotated[str, Meta(max_length=10, description="Language: en, de.")] = ""
    location: Annotated[str, Meta(max_length=100, description="Place to search from.")] = ""
    tbs: Annotated[
        Literal["", "qdr:h", "qdr:d", "qdr:w", "qdr:m", "qdr:y"],
        Meta(description="Only what is new: since an hour, a day, week, month or year."),
    ] = ""
    offline_mode: Annotated[
        bool, Meta(description="Search nothing that is not on this server.")
    ] = False


class Results(msgspec.Struct, frozen=True):
    """The tool's structured result."""

    query: str
    provider: str
    results: list[Hit]


async def run(asked: WebSearch, call: Context) -> Answer:
    """Search, and lay the results out for a model."""
    if asked.offline_mode:
        raise Failed("unavailable", "offline_mode is on, and this server has no index of the web.")
    query = to_query(asked, call.options(WebSearchOptions))
    if providers_of(call.means.settings):
        found = await search(call.means, query)
    else:
        found = _make_up(query)
    warning = _WARNING if found.provider == _STUB else ""
    listed = "\n\n".join(
        f"{hit.position}. {hit.title}\n{hit.url}\n{hit.snippet}" for hit in found.hits
    )
    return Answer(
        warning + (listed or "Nothing was found."),
        structured=Results(query.text, found.provider, found.hits),
        citations=[Citation(title=hit.title, url=hit.url, text=hit.snippet) for hit in found.hits],
    )


def to_query(asked: WebSearch, options: WebSearchOptions) -> Query:
    """Put together what the model asks for and what the request allows: both count."""
    filters = options.filters or SearchFilters()
    allowed = {domain.lower() for domain in filters.allowed_domains or ()}
    wanted = {domain.lower() for domain in asked.domain_allow_list}
    if allowed and wanted:
        wanted = {domain for domain in wanted if _is_under(domain, allowed)}
        if not wanted:
            raise Failed(
                "refused", f"Only these domains may be searched: {', '.join(sorted(allowed))}."
            )
    place = options.user_location or UserLocation()
    near = ", ".join(filter(None, [place.city, place.region, place.country]))
    return Query(
        text=asked.q,
        count=asked.num or _COUNTS[options.search_context_size],
        page=asked.page,
        domains=tuple(sorted(wanted or allowed)),
        country=asked.gl or (place.country or "").lower()[:2],
        language=asked.hl,
        location=asked.location or near,
        tbs=asked.tbs,
        deep=options.search_context_size == "high",
    )


def _is_under(domain: str, allowed: set[str]) -> bool:
    return any(domain == one or domain.endswith(f".{one}") for one in allowed)


def _make_up(query: Query) -> Found:
    """Results for tests and first steps; each says of itself that it is none."""
    hits = [
        Hit(
            number,
            f"Made-up result {number} for {query.text}"[:300],
            f"https://example.com/made-up/{number}",
            "This result was made up: no search provider is set on this server.",
        )
        for number in range(1, min(query.count, 3) + 1)
    ]
    return Found(_STUB, hits)


def _lacks(means: Means) -> str:
    if providers_of(means.settings) or means.settings.search_stub:
        return ""
    keys = "JAN_SERPER_API_KEY, JAN_TAVILY_API_KEY, JAN_EXA_API_KEY, JAN_SEARXNG_URL"
    return f"no search provider is set ({keys})"


TOOL = builtin(
    "web_search",
    "Search the web. Gives titles, URLs and excerpts; cite the URLs that you use.",
    WebSearch,
    run,
    title="Search the web",
    hints=McpHints(read_only_hint=True, open_world_hint=True),
    output=Results,
    idempotent=True,
    aliases=("google_search",),
    argument_aliases={"query": "q"},
    lacks=_lacks,
)

"""`web_fetch`: the text of a page, a PDF or a text on the web."""

import asyncio
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.tool_options import McpHints
from schemas.tools import Citation
from workers.tools.extraction import Extract, Unreadable, extract
from workers.tools.fetching import Fetched, fetch, refuse_error
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context, builtin

MAX_BYTES: Final = 5 << 20

_TEXTS: Final = ("json", "xml", "yaml", "javascript", "x-ndjson", "csv")


class WebFetch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool's arguments."""

    url: Annotated[
        str, Meta(min_length=1, max_length=2048, description="An http or https URL to read.")
    ]
    format: Annotated[
        Literal["markdown", "text"],
        Meta(description="markdown keeps headings, lists and links; text has words only."),
    ] = "markdown"
    max_chars: Annotated[
        int, Meta(ge=100, le=200_000, description="Characters to return at most.")
    ] = 50_000


class Page(msgspec.Struct, frozen=True):
    """The tool's structured result; the text itself is the output."""

    url: str
    title: str
    content_type: str
    characters: int
    truncated: bool


async def run(asked: WebFetch, call: Context) -> Answer:
    """Fetch, take the text out, cut."""
    means = call.means
    if means.settings.fetch_robots and not await means.robots.may_fetch(asked.url):
        raise Failed("refused", "The site's robots.txt does not let programs read this page.")
    fetched = await fetch(means.web, means.guard, asked.url, MAX_BYTES)
    refuse_error(fetched)
    call.progress(1, 2, f"{len(fetched.data)} bytes were fetched")
    found = await _read(fetched, asked)
    text = found.text.strip()
    kept = text[: asked.max_chars]
    note = ""
    if len(kept) < len(text):
        note = f"\n\n[Cut: the first {len(kept)} of {len(text)} characters are shown.]"
    title = found.title.strip() or fetched.url
    page = Page(
        fetched.url, title, fetched.content_type, len(text), truncated=len(kept) < len(text)
    )
    return Answer(
        f"{title}\n{fetched.url}\n\n{kept or '[The page has no text.]'}{note}",
        structured=page,
        citations=[Citation(title=title[:300], url=fetched.url, text=kept[:300])],
    )


async def _read(fetched: Fetched, asked: WebFetch) -> Extract:
    kind, _, parameters = fetched.content_type.lower().partition(";")
    kind = kind.strip() or _guess(fetched.data)
    try:
        if kind in ("text/html", "application/xhtml+xml"):
            return await extract("html", fetched.data, fetched.url, asked.format)
        if kind == "application/pdf":
            return await extract("pdf", fetched.data, fetched.url, asked.format)
    except Unreadable as unreadable:
        raise Failed("unreadable", f"{fetched.url}: {unreadable}.") from None
    if kind.startswith("text/") or kind.endswith(_TEXTS):
        return Extract(await asyncio.to_thread(_decode, fetched.data, parameters))
    raise Failed("unsupported_type", f"{fetched.url} is no text but {kind[:100]}.")


def _guess(data: bytes) -> str:
    """The type of what comes without one."""
    if data.startswith(b"%PDF"):
        return "application/pdf"
    return "text/html" if b"<html" in data[:1000].lower() else "text/plain"


def _decode(data: bytes, parameters: str) -> str:
    charset = parameters.partition("charset=")[2].strip(" \"';") or "utf-8"
    try:
        return data.decode(charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")


TOOL = builtin(
    "web_fetch",
    "Read a web page, a PDF or a text file by its URL, as Markdown or plain text.",
    WebFetch,
    run,
    title="Fetch a page",
    hints=McpHints(read_only_hint=True, open_world_hint=True),
    output=Page,
    idempotent=True,
    aliases=("scrape",),
)

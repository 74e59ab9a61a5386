"""`file_search_query`: pieces of the caller's documents that fit a question."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.errors import InvalidRequest
from schemas.filters import Filter, require_sound
from schemas.queries.files import MAX_HITS, AskSearch, Hit, Hits
from schemas.tool_options import FileSearchOptions, McpHints, RankingOptions
from schemas.tools import Citation
from workers.tools.outcome import Answer, Failed
from workers.tools.stored import ask
from workers.tools.tool import Context, builtin

_USUAL: Final = 8
_EXCERPT: Final = 300

_decode = msgspec.json.Decoder(Hits).decode


class FileSearchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool's arguments."""

    query: Annotated[str, Meta(min_length=1, max_length=2000, description="What to look for.")]
    top_k: Annotated[int, Meta(ge=1, le=20, description="How many pieces.")] | None = None
    document_ids: Annotated[
        list[Annotated[str, Meta(max_length=200)]],
        Meta(max_length=50, description="Only in these documents."),
    ] = []


class Results(msgspec.Struct, frozen=True):
    """The tool's structured result."""

    query: str
    count: int
    results: list[Hit]


async def run(asked: FileSearchQuery, call: Context) -> Answer:
    """Search what the caller has indexed."""
    options = call.options(FileSearchOptions)
    if options.filters is not None:
        _require_sound(options.filters)
    question = AskSearch(
        principal=call.job.principal,
        query=asked.query,
        limit=min(asked.top_k or _USUAL, options.max_num_results or MAX_HITS),
        documents=asked.document_ids,
        stores=options.vector_store_ids,
        filters=options.filters,
    )
    ranking = options.ranking_options or RankingOptions()
    found = _decode(await ask(call, "files", "search", question)).hits
    hits = [hit for hit in found if hit.score >= ranking.score_threshold]
    shown = "\n\n".join(
        f"[{hit.name or hit.document}, piece {hit.number}]\n{hit.text}" for hit in hits
    )
    return Answer(
        shown or "Nothing was found.",
        structured=Results(asked.query, len(hits), hits),
        citations=[
            Citation(
                title=hit.name or hit.document,
                file_id=hit.document,
                text=hit.text[:_EXCERPT],
                score=hit.score,
                attributes=hit.attributes,
            )
            for hit in hits
        ],
    )


def _require_sound(filters: Filter) -> None:
    try:
        require_sound(filters, "filters")
    except InvalidRequest as error:
        raise Failed("invalid_options", f"The options can't be used: {error.message}.") from None


TOOL = builtin(
    "file_search_query",
    "Search the user's own documents. Gives the pieces that fit best, with the document's name.",
    FileSearchQuery,
    run,
    title="Search documents",
    hints=McpHints(read_only_hint=True, open_world_hint=False),
    output=Results,
    idempotent=True,
    aliases=("file_search",),
    argument_aliases={"q": "query"},
)

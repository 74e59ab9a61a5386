"""`file_search_index`: has a text found by `file_search_query`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.tool_options import FileIndexOptions, McpHints
from schemas.writes import Attribute, IndexedFile, IndexFile
from workers.tools.outcome import Answer
from workers.tools.stored import command
from workers.tools.tool import Context, builtin

_decode = msgspec.json.Decoder(IndexedFile).decode


class FileSearchIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tool's arguments."""

    document_id: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="What the document is called; what was indexed as this before is replaced.",
        ),
    ]
    text: Annotated[
        str, Meta(min_length=1, max_length=250_000, description="The document's whole text.")
    ]
    name: Annotated[str, Meta(max_length=200, description="A title for people.")] = ""
    metadata: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Attribute],
        Meta(max_length=16, description="Facts about the document."),
    ] = {}
    tags: Annotated[
        list[Annotated[str, Meta(max_length=64)]], Meta(max_length=20, description="Words for it.")
    ] = []


async def run(asked: FileSearchIndex, call: Context) -> Answer:
    """Have it indexed for the caller."""
    attributes: dict[str, Attribute | list[str]] = dict(asked.metadata)
    if asked.tags:
        attributes["tags"] = asked.tags
    body = IndexFile(
        document=_plain(asked.document_id),
        text=asked.text,
        store=call.options(FileIndexOptions).store,
        name=_plain(asked.name),
        attributes=attributes,
    )
    indexed = _decode(await command(call, "files", "index", body))
    how = "indexed anew" if indexed.updated else "indexed"
    return Answer(
        f"The document {indexed.document} is {how}, in {indexed.chunks} pieces.", structured=indexed
    )


def _plain(text: str) -> str:
    """Without what PostgreSQL's texts can't have."""
    return text.replace("\0", "�")


TOOL = builtin(
    "file_search_index",
    "Keep a text so that file_search_query finds it; it stays until it is replaced.",
    FileSearchIndex,
    run,
    title="Index a document",
    # It takes the place of an older text of the same id.
    hints=McpHints(read_only_hint=False, destructive_hint=True, open_world_hint=False),
    output=IndexedFile,
    idempotent=True,
)

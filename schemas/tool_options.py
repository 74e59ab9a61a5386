"""What a request says about a server's tool besides its arguments: CallTool.options, by tool."""

from typing import Annotated, Final, Literal

import msgspec

from schemas.filters import Filter

PYTHON: Final = "python_exec"  # the tool that runs code
MAX_FILES: Final = 20  # that code gets, and that it may make
MAX_FILES_BYTES: Final = 24 << 20  # of them together

_LONGEST: Final = 255  # bytes of a file's name, and of its path
_MAX_PARTS: Final = 8  # of a path


class SearchFilters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which domains a search may find; None: all."""

    allowed_domains: Annotated[list[str], msgspec.Meta(max_length=100)] | None = None


class UserLocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the user is, about; `country` in two letters."""

    type: str = "approximate"
    country: str | None = None
    region: str | None = None
    city: str | None = None
    timezone: str | None = None


class WebSearchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of `web_search`: as in OpenAI's tool of this type."""

    filters: SearchFilters | None = None
    user_location: UserLocation | None = None
    search_context_size: Literal["low", "medium", "high"] = "medium"


class InputFile(msgspec.Struct, frozen=True):
    """A file that code gets into its folder: its path there, and where the object store has it."""

    name: str
    reference: str


class PythonOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of `python_exec`. Where two files can't be in a folder together, it gets the later one."""

    files: Annotated[list[InputFile], msgspec.Meta(max_length=MAX_FILES)] = []


def is_file_name(name: str) -> bool:
    """Whether a file in a folder can be named so; hidden ones would not be seen."""
    plain = name.isprintable() and "/" not in name and not name.startswith(".")
    return plain and 0 < len(name.encode()) <= _LONGEST


def is_file_path(path: str) -> bool:
    """Whether a file can lie there below a folder: it has a name, maybe after those of folders."""
    parts = path.split("/")
    plain = len(parts) <= _MAX_PARTS and all(is_file_name(part) for part in parts)
    return plain and len(path.encode()) <= _LONGEST


def exclude(one: str, other: str) -> bool:
    """Whether no folder has files at both paths: they are the same, or one has to be a folder."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


class RankingOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How good a hit has to be."""

    score_threshold: float = 0.0


class FileSearchOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of `file_search_query`: as in OpenAI's tool `file_search`."""

    vector_store_ids: Annotated[list[str], msgspec.Meta(max_length=16)] = []
    max_num_results: Annotated[int, msgspec.Meta(ge=1, le=50)] | None = None
    filters: Filter | None = None
    ranking_options: RankingOptions | None = None


class FileIndexOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of `file_search_index`: the owner's vector store that the document is put into."""

    store: str = ""


class McpOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a call to an MCP server that a request names, and what is asked of it.

    `name` is the tool to call; empty: the call's own `tool`. `authorization` and the values of
    `headers` are sealed (schemas/sealing.py). The structured result of `list_tools` is an
    McpToolList.
    """

    server_label: str
    server_url: str
    op: Literal["call_tool", "list_tools"] = "call_tool"
    name: str = ""
    headers: dict[str, str] | None = None
    authorization: str | None = None


class McpHints(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What an MCP server says of a tool's effects; nothing makes it say the truth."""

    title: str | None = None
    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None


class McpTool(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A tool as an MCP server lists it, by the names that MCP has."""

    name: str
    input_schema: msgspec.Raw
    description: str = ""
    title: str = ""
    annotations: McpHints | None = None


class McpToolList(msgspec.Struct, frozen=True):
    """The structured result of `list_tools`."""

    server_label: str
    tools: list[McpTool]

"""mcp.yaml: the MCP servers of the operator. Their credentials never enter NATS."""

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.documents import Document

_LABEL: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"


class McpFileError(ValueError):
    """A fault in mcp.yaml, told in one line."""


class _Part(BaseModel):
    """Every part refuses unknown keys and never repeats a value in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class McpServer(_Part):
    """One server: at a `url` over streamable HTTP, or a `command` that is started here.

    Its tools are announced as `<label>__<tool>`, those that `include` names and `exclude` does not:
    shell patterns on the server's own names. `timeout_s` bounds a call. A command gets `env` and
    next to nothing of this process's environment.
    """

    label: str = Field(max_length=32, pattern=_LABEL)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+(/\S*)?$", repr=False)
    headers: dict[str, str] = Field(default={}, repr=False)
    command: str | None = Field(default=None, min_length=1)
    args: list[str] = Field(default=[], repr=False)
    env: dict[str, str] = Field(default={}, repr=False)
    cwd: str | None = Field(default=None, min_length=1)
    timeout_s: float = Field(default=45, gt=0, le=600)
    include: list[str] = ["*"]
    exclude: list[str] = []

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"the value of {name} can't be sent as an HTTP header")
        return headers

    @model_validator(mode="after")
    def _one_way(self) -> "McpServer":
        if (self.url is None) == (self.command is None):
            raise ValueError("a server needs a url or a command, and not both")
        return self

    def wants(self, tool: str) -> bool:
        """Whether a tool of this name is announced."""
        return any(fnmatch.fnmatchcase(tool, pattern) for pattern in self.include) and not any(
            fnmatch.fnmatchcase(tool, pattern) for pattern in self.exclude
        )


class McpFile(_Part):
    """The whole file."""

    servers: list[McpServer] = []


def read_mcp_file(
    text: str, *, name: str = "mcp.yaml", environ: Mapping[str, str] | None = None
) -> McpFile:
    """Read the file's text; `name` is for messages. Raises McpFileError."""
    document = Document(
        name,
        os.environ if environ is None else environ,
        McpFileError,
        parts=(McpFile, McpServer),
        patterns={
            "label": "lower-case letters, digits and dashes only",
            "url": "must be a URL that begins with http:// or https://, without a user",
        },
    )
    data = document.read(text)
    if not isinstance(data, dict):
        raise McpFileError(f"{name}: the file needs a list `servers:`")
    try:
        found = McpFile.model_validate(data)
    except ValidationError as error:
        raise document.to_error(error) from None
    labels: set[str] = set()
    for index, server in enumerate(found.servers):
        if server.label in labels:
            message = f"there is another server labelled {server.label}"
            raise document.error(("servers", index, "label"), message)
        labels.add(server.label)
    return found


def load_mcp_file(path: Path) -> McpFile:
    """Read the file at a path. Raises McpFileError."""
    try:
        return read_mcp_file(path.read_text(encoding="utf-8"), name=str(path))
    except UnicodeDecodeError:
        raise McpFileError(f"{path}: not a text in UTF-8") from None
    except OSError as error:
        raise McpFileError(f"{path}: {(error.strerror or str(error)).lower()}") from None

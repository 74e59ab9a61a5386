"""A tool of this server: a function, its typed arguments, and what is known of it.

A built-in one is a module in workers/tools/builtin that makes a ServerTool by `builtin`, and a line
in TOOLS there.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from schemas.objects import artifact_name, container_of
from schemas.tool_options import McpHints
from schemas.tools import CallTool, Progress, Tool
from workers.tools.arguments import to_arguments, to_schema
from workers.tools.means import Means
from workers.tools.outcome import Answer, Failed

ArgumentsT = TypeVar("ArgumentsT", bound=msgspec.Struct)
OptionsT = TypeVar("OptionsT", bound=msgspec.Struct)

TIMEOUT = 45.0  # seconds of a call, unless its tool says otherwise


@dataclass(frozen=True)
class Context:
    """What a tool's function gets beside the arguments: the call, and what to work with."""

    job: CallTool
    means: Means
    tell: Callable[[Progress], None]

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """Say how far it is; what comes faster than five times a second is not told."""
        self.tell(Progress(progress, total, message))

    def artifact_name(self, number: int) -> str:
        """Where the so-manieth file that the call makes is kept."""
        unique = self.job.call_id.partition("_")[2]
        return artifact_name(self.job.principal, self.container, unique, number)

    @property
    def container(self) -> str:
        """Where the call's files are told to lie: with those of all calls of its run."""
        return container_of(self.job.parent or self.job.call_id)

    def options(self, kind: type[OptionsT]) -> OptionsT:
        """Read what the request says about the tool besides. Raises Failed."""
        if self.job.options is None:
            return kind()
        try:
            return msgspec.json.decode(self.job.options, type=kind)
        except msgspec.DecodeError as error:
            message = f"The options of {self.job.tool} can't be used: {error}."
            raise Failed("invalid_options", message) from None


@dataclass(frozen=True)
class ServerTool:
    """A tool that can be called. `lacks` says what is missing for it here; empty: nothing."""

    about: Tool
    read: Callable[[dict[str, Any]], Any]
    run: Callable[[Any, Context], Awaitable[Answer]]
    lacks: Callable[[Means], str] = lambda _: ""
    aliases: tuple[str, ...] = ()
    announced: bool = True


def builtin(
    name: str,
    description: str,
    arguments: type[ArgumentsT],
    run: Callable[[ArgumentsT, Context], Awaitable[Answer]],
    *,
    title: str,
    hints: McpHints | None = None,
    output: Any = None,
    idempotent: bool = False,
    timeout: float = TIMEOUT,
    aliases: tuple[str, ...] = (),
    argument_aliases: Mapping[str, str] | None = None,
    lacks: Callable[[Means], str] = lambda _: "",
) -> ServerTool:
    """Make a tool of a function; its queue has its name.

    `argument_aliases` are other names of arguments, each with the true one.
    """
    others = argument_aliases or {}
    about = Tool(
        name=name,
        title=title,
        description=description,
        parameters=to_schema(arguments),
        output=to_schema(output) if output is not None else None,
        queue=name,
        idempotent=idempotent,
        timeout=timeout,
        hints=hints,
    )
    return ServerTool(
        about,
        read=lambda found: to_arguments(name, found, arguments, others),
        run=run,
        lacks=lacks,
        aliases=aliases,
    )

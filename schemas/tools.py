"""Tools that the server itself runs: what is known of each, how one is called, what comes of it.

A call is a run of its own: whoever takes it fences `frames.<edge>.<call>`, writes its progress as
events and its ToolResult as the committed body. So a call begins once, whoever dies, and its result
is written once.
"""

from typing import Any, Literal

import msgspec

from schemas.content import Content
from schemas.raw import OptionalRaw
from schemas.tool_options import McpHints

ToolStatus = Literal["completed", "failed", "cancelled"]

MAX_ARGUMENTS = 256 * 1024  # bytes of a call's arguments
MAX_RESULT = 256 * 1024  # bytes of a ToolResult: with its prefix one message of TOKENS


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool as a worker announces it: the value of `tool.<name>` in the bucket `tools`.

    `parameters` and `output` are JSON Schemas, of the arguments and of a result's `structured`.
    `queue` is where its calls wait. What is not `idempotent` is never begun twice. `unavailable`
    says why it can't be used here; empty if it can. `hints` are what is known of its effects.
    """

    name: str
    description: str
    parameters: msgspec.Raw
    queue: str
    title: str = ""
    output: OptionalRaw = None
    idempotent: bool = False
    timeout: float = 45.0  # seconds
    unavailable: str = ""
    hints: McpHints | None = None
    v: int = 1


class Switch(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operator says of a tool: the value of `switch.<name>` in the bucket `tools`.

    A call whose arguments hold one of `disallowed_keywords`, in any case, is refused.
    """

    enabled: bool = True
    description: str | None = None
    disallowed_keywords: list[str] = []
    v: int = 1


class CallTool(msgspec.Struct, frozen=True, omit_defaults=True):
    """Run a tool: the job on `jobs.tools.<queue>`.

    `call_id` is `tool_…`: the same for the same call of the same `parent` (the run that calls it;
    empty: a client calls it by itself). `arguments` are JSON as the caller sent them. `options` are
    what the request says about the tool besides, secrets in it sealed. Times in unix seconds.
    """

    call_id: str
    tool: str
    arguments: msgspec.Raw
    principal: str
    edge: str
    created: int
    deadline: float
    request_id: str
    parent: str = ""
    options: OptionalRaw = None
    api_key: str | None = None  # the key's id, never the key
    traceparent: str | None = None
    content: Content = "full"  # how much of what is said the log keeps
    idempotent: bool = False  # this call may be begun twice, whatever is known of the tool
    v: int = 1


class Citation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where something in a result is from: a page, or a file."""

    title: str
    url: str = ""
    file_id: str = ""
    text: str = ""  # an excerpt
    score: float | None = None
    attributes: dict[str, Any] = {}  # the file's


class Artifact(msgspec.Struct, frozen=True):
    """A file that a tool made, kept in the object store under `reference`."""

    id: str
    name: str
    bytes: int
    media_type: str
    reference: str
    container: str = ""


class ToolProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a call failed. `code` is for programs: timeout, refused, unknown_outcome, …"""

    code: str
    message: str


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a call ended: the committed body of its frames.

    `output` is what the model is told, also of a failure. `structured` is the result as JSON.
    """

    status: ToolStatus
    output: str
    structured: OptionalRaw = None
    citations: list[Citation] = []
    artifacts: list[Artifact] = []
    error: ToolProblem | None = None
    v: int = 1


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a call is: an event of its frames. `total` is what `progress` will come to."""

    progress: float
    total: float | None = None
    message: str = ""


class ToolStarted(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker began a call: the fact on `events.tool.started.<shard>`."""

    call_id: str
    tool: str
    worker: str
    attempt: int
    at: float
    parent: str = ""
    principal: str = ""
    request_id: str = ""
    v: int = 1


class ToolFinished(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call ended: the fact on `events.tool.finished.<shard>`, by its commit alone.

    `arguments` and `result` (a ToolResult) are there as far as the call's `content` says.
    """

    call_id: str
    tool: str
    status: ToolStatus
    at: float
    seconds: float
    attempts: int = 1
    parent: str = ""
    principal: str = ""
    request_id: str = ""
    arguments: OptionalRaw = None
    result: OptionalRaw = None
    error: ToolProblem | None = None
    v: int = 1


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run's part tells it meanwhile, on `words.<run>`: a step or a call, by its id.

    It may be lost: that the part has ended stands in its frames. `progress` is a Progress.
    """

    about: str
    ended: bool = False
    progress: OptionalRaw = None


decode_tool = msgspec.json.Decoder(Tool).decode
decode_switch = msgspec.json.Decoder(Switch).decode
decode_call_tool = msgspec.json.Decoder(CallTool).decode
decode_tool_result = msgspec.json.Decoder(ToolResult).decode
decode_progress = msgspec.json.Decoder(Progress).decode
decode_tool_started = msgspec.json.Decoder(ToolStarted).decode
decode_tool_finished = msgspec.json.Decoder(ToolFinished).decode
decode_word = msgspec.json.Decoder(Word).decode

"""What the loop writes of a response into its frames: entries, one in each frame.

Together with the frames of its steps, which are runs of their own, they are the whole response:
whoever folds them, worker or edge, gets the same events under the same numbers, and knows where to
go on. A `step` says that the frames of that run, up to its commit, come next.
"""

from typing import Literal

import msgspec

from schemas.raw import OptionalRaw

OfferKind = Literal[
    "function", "custom", "web_search", "file_search", "code_interpreter", "mcp", "own"
]


class Offer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the model is offered under `name`.

    `function` and `custom` are the client's: it answers their calls. Of the others `tool` is what
    the workers call it; `own` are this server's tools that OpenAI has no item for. `definition` is
    what the model gets to see, as chat has it. `options` go with each call. `approval`: the client
    is asked before it is called.
    """

    name: str
    kind: OfferKind
    definition: msgspec.Raw
    tool: str = ""
    queue: str = ""
    label: str = ""  # the MCP server's
    options: OptionalRaw = None
    approval: bool = False
    idempotent: bool = False
    timeout: float = 45.0


class Begun(msgspec.Struct, frozen=True, tag="begun", tag_field="t", omit_defaults=True):
    """The loop has taken the response. `response` is the object as it is now, without output."""

    response: msgspec.Raw
    queued: bool = False
    include: list[str] = []
    obfuscate: bool = False


class Offered(msgspec.Struct, frozen=True, tag="offered", tag_field="t"):
    """Which tools the model is offered, in all steps."""

    offers: list[Offer]


class Added(msgspec.Struct, frozen=True, tag="added", tag_field="t"):
    """An item that is whole: a list of a server's tools, the output of a call."""

    item: msgspec.Raw


class Approved(msgspec.Struct, frozen=True, tag="approved", tag_field="t"):
    """The client lets a call go on that an earlier response asked it about, by `request`."""

    request: str
    name: str  # under which the tool is offered
    arguments: str


class Stepped(msgspec.Struct, frozen=True, tag="step", tag_field="t"):
    """A step of inference: the frames of `run_id` come next, up to their commit."""

    number: int
    run_id: str


class Call(msgspec.Struct, frozen=True):
    """A call on its way to a worker: the item that it is, and its own id."""

    item: str
    call_id: str


class Called(msgspec.Struct, frozen=True, tag="called", tag_field="t"):
    """The calls of the last step that the server answers were given to the workers of the tools."""

    calls: list[Call]


class Progressed(msgspec.Struct, frozen=True, tag="progress", tag_field="t"):
    """How far a call is: `progress` is a Progress."""

    item: str
    progress: msgspec.Raw


class Returned(msgspec.Struct, frozen=True, tag="returned", tag_field="t", omit_defaults=True):
    """A call has ended: `result` is its ToolResult."""

    item: str
    result: msgspec.Raw


class Ended(msgspec.Struct, frozen=True, tag="ended", tag_field="t", omit_defaults=True):
    """The end: the response as it will be stored.

    `refusal` is the HTTP status of one that failed before it began to answer.
    """

    response: msgspec.Raw
    refusal: int = 0


Entry = Begun | Offered | Added | Approved | Stepped | Called | Progressed | Returned | Ended

decode_entry = msgspec.json.Decoder(Entry).decode
encode_entry = msgspec.json.Encoder().encode

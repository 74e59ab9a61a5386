"""What the loop writes of a response into its frames: entries, one in each frame.

Together with the frames of its steps, which are runs of their own, they are the whole response:
whoever folds them, worker or edge, gets the same events under the same numbers, and knows where to
go on. A `step` says that the frames of that run, up to its commit, come next.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from schemas.api.hosted import Told
from schemas.ids import derived_id
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
    """The loop has taken the response. `response` is the object as it is now, without output.

    `judged`: what a step says is told only once the loop has looked at it.
    """

    response: msgspec.Raw
    queued: bool = False
    include: list[str] = []
    obfuscate: bool = False
    judged: bool = False


class Offered(msgspec.Struct, frozen=True, tag="offered", tag_field="t"):
    """Which tools the model is offered, in all steps."""

    offers: list[Offer]


class Added(msgspec.Struct, frozen=True, tag="added", tag_field="t"):
    """An item that is whole: a list of a server's tools, the output of a call."""

    item: msgspec.Raw


class Approved(msgspec.Struct, frozen=True, tag="approved", tag_field="t"):
    """The client was asked about a call by `request`, in an earlier response, and has answered."""

    request: str
    approve: bool
    name: str  # under which the tool is offered
    arguments: str


class Stepped(msgspec.Struct, frozen=True, tag="step", tag_field="t"):
    """A step of inference: the frames of `run_id` come next, up to their commit."""

    number: int
    run_id: str


class Trimmed(msgspec.Struct, frozen=True, tag="trimmed", tag_field="t"):
    """The last step was refused, as its model can't read so much: the next ones leave out more.

    `messages` is how many of the oldest ones, instructions aside.
    """

    messages: int


class Judged(msgspec.Struct, frozen=True, tag="judged", tag_field="t", omit_defaults=True):
    """The loop has looked at what the last step said: it is told, unless it is to be corrected."""

    correction: str | None = None


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

    `refusal` is the HTTP status of one that failed before it began to answer, `envelope` its error.
    `told` is what its items do not say of its calls, by their ids: models need it, clients do not.
    """

    response: msgspec.Raw
    refusal: int = 0
    envelope: OptionalRaw = None
    told: dict[str, Told] = {}


Entry = (
    Begun
    | Offered
    | Added
    | Approved
    | Stepped
    | Trimmed
    | Judged
    | Called
    | Progressed
    | Returned
    | Ended
)


def step_id(run_id: str, number: int) -> str:
    """The run that a response's step is: it follows from its number, from 1 on."""
    return derived_id("run_", run_id, number)


def first_step(run_id: str) -> str:
    """The run of the first step, which readers can wait for before it is given out."""
    return step_id(run_id, 1)


def is_story(entries: Sequence[bytes]) -> bool:
    """Tell a response's entries from the chunks of other runs."""
    return bool(entries) and entries[0].startswith(b'{"t":"begun"')


def result_of(entries: Sequence[bytes]) -> tuple[bytes | None, bytes | None]:
    """The response that entries end with, and the envelope of its error, if it has one."""
    last = decode_entry(entries[-1])
    if not isinstance(last, Ended):
        return None, None
    found = _decode_failed(last.response).error
    if found is None:
        return bytes(last.response), None
    told = {"message": found.message, "type": "server_error", "param": None, "code": found.code}
    return bytes(last.response), encode_entry({"error": told})


def told_of(entries: Sequence[bytes]) -> dict[str, Told]:
    """What is known of a response's calls that their items do not say."""
    last = decode_entry(entries[-1])
    return last.told if isinstance(last, Ended) else {}


class _Error(msgspec.Struct):
    code: str
    message: str


class _Failed(msgspec.Struct):
    error: _Error | None = None


_decode_failed = msgspec.json.Decoder(_Failed).decode
decode_entry = msgspec.json.Decoder(Entry).decode
encode_entry = msgspec.json.Encoder().encode

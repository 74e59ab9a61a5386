"""Imperative messages: what one part asks another to do. Versioned by addition only."""

import hashlib
from typing import Literal

import msgspec

from schemas.content import Content
from schemas.raw import OptionalRaw

# count: a prompt's tokens; response: the loop of one, whose steps are chats
Kind = Literal["chat", "completion", "embedding", "count", "response"]

MAX_EMBEDDED = 1 << 20  # bytes of a body that travel on the bus; larger ones are objects


class Target(msgspec.Struct, frozen=True):
    """A deployment that may serve a run, and the pool of workers that can reach it."""

    deployment: str
    pool: str


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run's messages and its answer are stored when it has ended: a conversation's branch.

    `head` is the position up to which the branch was read for the run; -1: it was empty.
    """

    conversation: str
    branch: str
    head: int = -1
    project: str | None = None


class UsedPrompt(msgspec.Struct, frozen=True):
    """The version of a prompt that a request's own reference stood for."""

    id: str
    version: int


class UsedHistory(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much of a conversation was put before a request's own messages.

    `head` is the position up to which the branch was read, -1: it was empty; `items` is how many
    of its items were taken. `instruction` is a digest of the conversation's, if it has one.
    """

    conversation: str
    branch: str
    head: int = -1
    items: int = 0
    instruction: str | None = None


class Sources(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the references in a request stood for, so that it can be made again for a replay.

    The log has the client's own JSON: with what a long conversation had said before, each of its
    runs would take up more than the one before. `digest` is of the request as the job carried it.
    """

    digest: str
    prompt: UsedPrompt | None = None
    history: UsedHistory | None = None


class Webhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whom a run's end is told, and with which secret that is signed.

    `secret` is sealed; empty: the one that follows from the principal.
    """

    url: str
    secret: str = ""


def digest_of(data: bytes) -> str:
    """What tells whether something is as it was."""
    return hashlib.sha256(data).hexdigest()


class RunInference(msgspec.Struct, frozen=True, omit_defaults=True):
    """Generate: the job on `jobs.inference.<pool>.<class>`.

    `request` is the client's own JSON, with what it refers to (a prompt, a conversation) in its
    place if it does; over 1 MiB it lies in the object store under `request_ref` instead. `targets`
    are in the order to try. Times are in unix seconds.
    """

    run_id: str
    kind: Kind
    edge: str
    principal: str
    model: str
    targets: list[Target]
    created: int
    deadline: float
    request_id: str
    stream: bool = False
    include_usage: bool = False
    background: bool = False
    request: OptionalRaw = None
    request_ref: str | None = None
    api_key: str | None = None  # the key's id, never the key
    traceparent: str | None = None
    moves: int = 0  # from one pool's queue to another's
    turn: Turn | None = None
    sources: Sources | None = None  # only in the log
    store: bool = False  # as a stored completion
    content: Content = "full"  # how much of what is said the log keeps
    webhook: Webhook | None = None  # who is told of the end of a response in the background
    parent: str | None = None  # the response that it is a step of
    replay_of: str | None = None  # the run that this one repeats: nothing is stored of it
    v: int = 1

    @property
    def stored(self) -> bool:
        """Whether what it generates is kept. Then it goes on when its readers leave."""
        return self.store or self.turn is not None


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """A durable write on `commands.<noun>.<verb>`; `body` says what (schemas/writes.py).

    It is carried out once, however often it is delivered, and not at all when `deadline` (unix
    seconds) has passed: nobody waits for it any more. `reply_to` gets BEGUN before it is committed,
    and then a Reply or a Failure.
    """

    id: str
    principal: str
    at: float
    deadline: float
    body: msgspec.Raw
    reply_to: str = ""
    request_id: str = ""
    v: int = 1


BEGUN = b"+"  # until another word comes, it may have been committed or not


class Reply(msgspec.Struct, frozen=True):
    """A command was carried out: the sequence of its event in EVENTS, and what the client gets."""

    seq: int
    answer: msgspec.Raw


class CancelRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stop a run: the message on `control.cancel.<run>`. `reason` is shown to its readers."""

    run_id: str
    reason: str
    by: str = ""
    at: float = 0.0
    v: int = 1


decode_command = msgspec.json.Decoder(Command).decode
decode_reply = msgspec.json.Decoder(Reply).decode
decode_run_inference = msgspec.json.Decoder(RunInference).decode
decode_cancel_run = msgspec.json.Decoder(CancelRun).decode
encode = msgspec.json.Encoder().encode

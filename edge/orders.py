"""What a request asks for, and who asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.api.items import Item
from schemas.api.needs import Needs
from schemas.commands import Kind, Turn, UsedHistory, UsedPrompt, Webhook


class Into(NamedTuple):
    """A conversation that a request goes on with; `keep`: what is said is added to it."""

    conversation: str
    branch: str | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Order:
    """What a request asks for; `body` is the client's JSON as it came.

    `resolved` is what the job carries where that differs: the same with what it only refers to,
    which was a `prompt`, a `history`, or both. `into` is a conversation, which becomes a `turn`
    when its history has been read.
    """

    kind: Kind
    model: str
    body: bytes
    stream: bool = False
    include_usage: bool = False
    needs: Needs = field(default_factory=dict)  # what a deployment must be able to do
    resolved: bytes | None = None
    identity: bytes | None = None  # of what is resolved, that by which it is known again
    given: bytes | None = None  # what came, where `body`, which the log gets, has secrets sealed
    asked: Sequence[Item] = ()  # of a response: its input, without a prompt's messages
    prompt: UsedPrompt | None = None
    history: UsedHistory | None = None
    into: Into | None = None
    turn: Turn | None = None
    store: bool = False
    background: bool = False
    webhook: Webhook | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()  # of the answer


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    principal: str
    request_id: str
    api_key: str | None = None
    traceparent: str | None = None
    idempotency_key: str | None = None

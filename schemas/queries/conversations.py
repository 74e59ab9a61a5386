"""Questions about conversations, `query.conversations.<verb>`, and their answers."""

from typing import Final

import msgspec

from schemas.api.hosted import MadeFile
from schemas.api.lists import Paging
from schemas.queries import Ask

MAX_CONTEXT: Final = 4 << 20  # bytes of a history: with a request it is one object, one message
MAX_CONTEXT_ITEMS: Final = 4000


class AskConversation(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.get`."""

    id: str


class AskConversations(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.list`: by project, by words in titles and texts."""

    paging: Paging = Paging()
    project_id: str | None = None
    search: str | None = None


class AskItems(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.items`: those of a branch (None: of the active one)."""

    conversation: str
    paging: Paging = Paging()
    branch: str | None = None


class AskItem(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.item`."""

    conversation: str
    item: str


class AskBranch(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.branches` (without a name: all) and `query.conversations.branch`."""

    conversation: str
    name: str | None = None


class AskExport(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.export`: a conversation's items after a position, of all branches.

    With a `branch` only what it is made of. `upto` ends it: the position before which it began.
    """

    conversation: str
    after_position: int = -1
    upto: int | None = None
    branch: str | None = None


class ExportPage(msgspec.Struct, frozen=True):
    """The answer of `query.conversations.export`: its head, and JSON of its items.

    `items` are objects with `branch`, `position` and `item`. `upto` is the position of the next
    item that would be added; `last` that of the last item here.
    """

    conversation: msgspec.Raw
    branches: msgspec.Raw
    items: list[msgspec.Raw]
    active_branch: str
    title: str | None
    upto: int
    last: int
    has_more: bool


class AskContext(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.conversations.context`: what a model needs to go on with a branch.

    With `upto` as it was when that was the position of its last item.
    """

    conversation: str
    branch: str | None = None
    upto: int | None = None


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.conversations.context`.

    `messages` is a JSON array of chat messages: the newest whole turns of the branch, all of it
    unless `trimmed`, made of so many `items`. `head` is the position of its last item. `asked` are
    questions for approval, as JSON, that wait for an answer; `files` those that code has made.
    """

    branch: str
    head: int
    messages: msgspec.Raw
    items: int = 0
    instruction: str | None = None
    project: str | None = None
    images: bool = False
    trimmed: bool = False
    asked: list[msgspec.Raw] = []
    files: list[MadeFile] = []

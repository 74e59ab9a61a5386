"""Conversations and what belongs to them."""

from typing import Any, Final

from edge.openapi.operation import IDEMPOTENCY, KNOWN, Operation, Parameter
from schemas.api.conversations import (
    AddItems,
    Conversation,
    ConversationDeleted,
    ConversationList,
    CreateConversation,
    Item,
    ItemList,
    UpdateConversation,
)

_WRITING: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)
_ID: Final = Parameter("id", "path", "The conversation's id.", {"type": "string"})
_ITEM: Final = Parameter("item_id", "path", "The item's id.", {"type": "string"})
_BRANCH: Final = Parameter(
    "branch", "query", "The branch; the active one by default.", {"type": "string"}
)
_IF_MATCH: Final = Parameter(
    "If-Match",
    "header",
    "The ETag that was read: 409 if the conversation was changed since.",
    {"type": "string"},
)
PAGING: Final = (
    Parameter("limit", "query", "How many.", {"type": "integer", "minimum": 1, "maximum": 100}),
    Parameter("order", "query", "Newest or oldest first.", {"enum": ["asc", "desc"]}),
    Parameter("after", "query", "Begin after the object with this id.", {"type": "string"}),
    Parameter("before", "query", "End before the object with this id.", {"type": "string"}),
)
_ONE: Final = "/v1/conversations/{id}"


def _reading(path: str, name: str, text: str, answers: Any, *parameters: Parameter) -> Operation:
    return Operation(
        path, "get", name, text, answers, parameters=parameters, errors=KNOWN, public=False
    )


def _writing(path: str, method: str, name: str, text: str, answers: Any, **more: Any) -> Operation:
    return Operation(path, method, name, text, answers, errors=_WRITING, public=False, **more)


OPERATIONS: Final = (
    _writing(
        "/v1/conversations", "post", "createConversation",
        "Make a conversation, with up to 20 items.", Conversation,
        takes=CreateConversation, body_required=False, parameters=(IDEMPOTENCY,),
    ),
    _reading(
        "/v1/conversations", "listConversations",
        "The caller's conversations: all, those of a project, those with certain words.",
        ConversationList,
        *PAGING,
        Parameter("project_id", "query", "Those of this project.", {"type": "string"}),
        Parameter(
            "search", "query", "Those with all these words in their title or texts.",
            {"type": "string", "minLength": 1, "maxLength": 256},
        ),
    ),
    _reading(_ONE, "retrieveConversation", "One conversation.", Conversation, _ID),
    _writing(
        _ONE, "post", "updateConversation", "Change what is named; the last write wins.",
        Conversation, takes=UpdateConversation, parameters=(_ID, _IF_MATCH, IDEMPOTENCY),
    ),
    _writing(
        _ONE, "patch", "patchConversation", "Change what is named; the last write wins.",
        Conversation, takes=UpdateConversation, parameters=(_ID, _IF_MATCH, IDEMPOTENCY),
    ),
    _writing(
        _ONE, "delete", "deleteConversation", "Delete a conversation with its items.",
        ConversationDeleted, parameters=(_ID,),
    ),
    _writing(
        f"{_ONE}/items", "post", "createConversationItems", "Append up to 20 items to a branch.",
        ItemList, takes=AddItems, parameters=(_ID, IDEMPOTENCY),
    ),
    _reading(
        f"{_ONE}/items", "listConversationItems", "The items of a branch.", ItemList,
        _ID, *PAGING, _BRANCH,
    ),
    _reading(
        f"{_ONE}/items/{{item_id}}", "retrieveConversationItem", "One item.", Item, _ID, _ITEM
    ),
    _writing(
        f"{_ONE}/items/{{item_id}}", "delete", "deleteConversationItem",
        "Delete an item; answers with the conversation.", Conversation, parameters=(_ID, _ITEM),
    ),
)  # fmt: skip

"""Conversations and what belongs to them."""

from typing import Any, Final

from edge.openapi.operation import IDEMPOTENCY, KNOWN, NOTHING, Operation, Parameter
from schemas.api.conversations import (
    AddItems,
    Branch,
    BranchActivated,
    BranchList,
    Conversation,
    ConversationDeleted,
    ConversationExport,
    ConversationList,
    ConversationsDeleted,
    CreateBranch,
    CreateConversation,
    CreateShare,
    Edited,
    EditItem,
    Imported,
    Item,
    ItemList,
    PublicShare,
    Share,
    ShareList,
    ShareRevoked,
    UpdateCall,
    UpdateConversation,
)

_WRITING: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)
_ID: Final = Parameter("id", "path", "The conversation's id.", {"type": "string"})
_ITEM: Final = Parameter("item_id", "path", "The item's id.", {"type": "string"})
_BRANCH: Final = Parameter(
    "branch", "query", "The branch; the active one by default.", {"type": "string"}
)
_NAME: Final = Parameter("name", "path", "The branch's name.", {"type": "string"})
_SHARE: Final = Parameter("share_id", "path", "The share's id.", {"type": "string"})
_REVOKED: Final = Parameter(
    "include_revoked", "query", "Those that are revoked too.", {"type": "boolean"}
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
        _ONE, "delete", "deleteConversation",
        "Delete a conversation with its items, branches and shares.",
        ConversationDeleted, parameters=(_ID, _IF_MATCH),
    ),
    _writing(
        "/v1/conversations", "delete", "deleteConversations",
        "Delete all conversations of the caller.", ConversationsDeleted,
    ),
    _writing(
        f"{_ONE}/items", "post", "createConversationItems", "Append up to 20 items to a branch.",
        ItemList, takes=AddItems, parameters=(_ID, _IF_MATCH, IDEMPOTENCY),
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
        "Delete an item; answers with the conversation.", Conversation,
        parameters=(_ID, _ITEM, _IF_MATCH),
    ),
    _writing(
        f"{_ONE}/items/by-call-id/{{call_id}}", "patch", "updateConversationCall",
        "Tell what became of a tool's call; answers with its item.", Item, takes=UpdateCall,
        parameters=(
            _ID, Parameter("call_id", "path", "The call's id.", {"type": "string"}), _BRANCH,
            _IF_MATCH, IDEMPOTENCY,
        ),
    ),
    _writing(
        f"{_ONE}/items/{{item_id}}/edit", "post", "editConversationItem",
        "Put another message in the place of a user's, on a new branch, which becomes active.",
        Edited, takes=EditItem, parameters=(_ID, _ITEM, _IF_MATCH, IDEMPOTENCY),
    ),
    _reading(
        f"{_ONE}/branches", "listConversationBranches", "All branches, oldest first.", BranchList,
        _ID,
    ),
    _writing(
        f"{_ONE}/branches", "post", "createConversationBranch",
        "Fork a branch: with all of it, or up to and with an item.", Branch, takes=CreateBranch,
        parameters=(_ID, _IF_MATCH, IDEMPOTENCY), status=201,
    ),
    _reading(
        f"{_ONE}/branches/{{name}}", "retrieveConversationBranch", "One branch.", Branch,
        _ID, _NAME,
    ),
    _writing(
        f"{_ONE}/branches/{{name}}", "delete", "deleteConversationBranch",
        "Delete a branch with the items that only it has; not MAIN, and not the active one.",
        NOTHING, parameters=(_ID, _NAME, _IF_MATCH), status=204,
    ),
    _writing(
        f"{_ONE}/branches/{{name}}/activate", "post", "activateConversationBranch",
        "Make a branch the active one.", BranchActivated,
        parameters=(_ID, _NAME, _IF_MATCH, IDEMPOTENCY),
    ),
    _writing(
        f"{_ONE}/share", "post", "shareConversation",
        "Share a snapshot of a conversation, or of one message, with everybody who has its link.",
        Share, takes=CreateShare, parameters=(_ID, _IF_MATCH, IDEMPOTENCY), status=201,
    ),
    _reading(
        f"{_ONE}/shares", "listConversationShares", "The shares of a conversation.", ShareList,
        _ID, *PAGING, _REVOKED,
    ),
    _writing(
        f"{_ONE}/shares/{{share_id}}", "delete", "revokeConversationShare",
        "Revoke a share for good.", ShareRevoked, parameters=(_ID, _SHARE),
    ),
    _reading(
        "/v1/shares", "listShares", "The caller's shares, of all conversations.", ShareList,
        *PAGING, _REVOKED,
    ),
    _writing(
        "/v1/shares/{share_id}", "delete", "revokeShare", "Revoke a share for good.", ShareRevoked,
        parameters=(_SHARE,),
    ),
    Operation(
        "/v1/public/shares/{slug}", "get", "readPublicShare",
        "Read what somebody has shared; nobody needs to sign in for it.", PublicShare,
        parameters=(
            Parameter("slug", "path", "The last part of the share's link.", {"type": "string"}),
        ),
        errors=(400, 404, 405, 410, 429, 500, 503),
    ),
    _reading(
        f"{_ONE}/export", "exportConversation",
        "Download a conversation: all branches as JSON, or the active one as Markdown.",
        ConversationExport, _ID,
        Parameter("format", "query", "JSON by default.", {"enum": ["json", "markdown"]}),
    ),
    _writing(
        "/v1/conversations/export", "post", "exportConversations",
        "Download all conversations as JSON Lines, one a line; with `store` they are put into the "
        "object store for a day, and the answer (201) says where.",
        "application/jsonl",
        parameters=(
            Parameter("store", "query", "Put them into the object store.", {"type": "boolean"}),
        ),
        also=(201,),
    ),
    _reading(
        "/v1/conversations/exports/{export_id}", "downloadExport",
        "Download an export from the object store.", "application/jsonl",
        Parameter("export_id", "path", "The export's id.", {"type": "string"}),
    ),
    _writing(
        "/v1/conversations/import", "post", "importConversations",
        "Make conversations of an export, or of several, one a line.", Imported,
        takes=ConversationExport, parameters=(IDEMPOTENCY,),
    ),
)  # fmt: skip

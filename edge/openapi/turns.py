"""What runs leave behind: turns of conversations, stored completions, usage."""

from typing import Any, Final

from edge.openapi.conversations import PAGING
from edge.openapi.operation import GENERATION, IDEMPOTENCY, KNOWN, Operation, Parameter
from schemas.api.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    RegenerateRequest,
    TurnRequest,
)
from schemas.api.stored import (
    CompletionDeleted,
    CompletionMessageList,
    StoredCompletion,
    StoredCompletionList,
    UpdateCompletion,
)
from schemas.api.turns import AddMessage, ConversationMessage, ConversationMessageList
from schemas.api.usage import GROUPS, UsagePage

_WRITING: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)
_ID: Final = Parameter("id", "path", "The conversation's id.", {"type": "string"})
_ITEM: Final = Parameter(
    "item_id", "path", "An item of the answer, or what it answers.", {"type": "string"}
)
_COMPLETION: Final = Parameter("id", "path", "The completion's id.", {"type": "string"})
_STREAM: Final = Parameter(
    "stream", "query", "`true` streams like the body's field.", {"enum": ["true", "false"]}
)
_TIME: Final = {"type": "string", "pattern": "^[0-9]{1,10}$|^[0-9]{4}-[0-9]{2}-[0-9]{2}"}
_ONE: Final = "/v1/conversations/{id}"
_COMPLETIONS: Final = "/v1/chat/completions"


def _reading(path: str, name: str, text: str, answers: Any, *parameters: Parameter) -> Operation:
    return Operation(
        path, "get", name, text, answers, parameters=parameters, errors=KNOWN, public=False
    )


def _running(path: str, name: str, text: str, takes: Any, *parameters: Parameter) -> Operation:
    return Operation(
        path, "post", name, text, ChatCompletion, takes=takes, events=ChatCompletionChunk,
        parameters=(*parameters, _STREAM, IDEMPOTENCY), errors=GENERATION, public=False,
    )  # fmt: skip


def _writing(path: str, method: str, name: str, text: str, answers: Any, **more: Any) -> Operation:
    return Operation(path, method, name, text, answers, errors=_WRITING, public=False, **more)


OPERATIONS: Final = (
    _reading(
        f"{_ONE}/messages", "listConversationMessages", "The texts of a branch.",
        ConversationMessageList, _ID, *PAGING,
        Parameter(
            "branch", "query", "The branch; the active one by default.", {"type": "string"}
        ),
    ),
    _writing(
        f"{_ONE}/messages", "post", "createConversationMessage",
        "Append a message, without running a model.", ConversationMessage, takes=AddMessage,
        parameters=(_ID, IDEMPOTENCY),
    ),
    _running(
        f"{_ONE}/runs", "createConversationRun",
        "Run a model on a conversation and store its answer. Unknown fields pass through.",
        TurnRequest, _ID,
    ),
    _running(
        f"{_ONE}/items/{{item_id}}/regenerate", "regenerateConversationItem",
        "Have an answer made anew, on a new branch that becomes the active one.",
        RegenerateRequest, _ID, _ITEM,
    ),
    _reading(
        _COMPLETIONS, "listChatCompletions", "The caller's stored completions, oldest first.",
        StoredCompletionList, *PAGING,
        Parameter("model", "query", "Those of this model.", {"type": "string"}),
        Parameter(
            "metadata[key]", "query", "Those with this value under this key; may be repeated.",
            {"type": "string"},
        ),
    ),
    _reading(
        f"{_COMPLETIONS}/{{id}}", "retrieveChatCompletion", "One stored completion.",
        StoredCompletion, _COMPLETION,
    ),
    _writing(
        f"{_COMPLETIONS}/{{id}}", "post", "updateChatCompletion",
        "Give a stored completion other metadata.", StoredCompletion, takes=UpdateCompletion,
        parameters=(_COMPLETION, IDEMPOTENCY),
    ),
    _writing(
        f"{_COMPLETIONS}/{{id}}", "delete", "deleteChatCompletion",
        "Delete a stored completion.", CompletionDeleted, parameters=(_COMPLETION,),
    ),
    _reading(
        f"{_COMPLETIONS}/{{id}}/messages", "listChatCompletionMessages",
        "What a stored completion was asked, oldest first.", CompletionMessageList,
        _COMPLETION, *PAGING,
    ),
    _reading(
        "/v1/usage", "getUsage",
        "Requests and tokens, the caller's own; of others with a key that has the scope `admin`.",
        UsagePage,
        Parameter("start", "query", "From when on: unix seconds, or a date. 30 days ago.", _TIME),
        Parameter("end", "query", "Until before when. Now.", _TIME),
        Parameter(
            "group_by", "query", f"What to add up by, of {', '.join(GROUPS)}, separated by commas.",
            {"type": "string", "default": "day"},
        ),
        Parameter(
            "principal", "query", "Whose; `*`: everybody's. Only for administrators.",
            {"type": "string"},
        ),
    ),
)  # fmt: skip

"""Projects, prompts and a user's settings."""

from typing import Any, Final

from edge.openapi.conversations import PAGING
from edge.openapi.operation import IDEMPOTENCY, KNOWN, Operation, Parameter
from schemas.api.projects import (
    CreateProject,
    Project,
    ProjectDeleted,
    ProjectList,
    UpdateProject,
)
from schemas.api.prompts import (
    CreatePrompt,
    CreatePromptVersion,
    Prompt,
    PromptDeleted,
    PromptList,
)
from schemas.api.settings import Preferences, Settings, UpdatePreferences, UpdateSettings

_WRITING: Final = (400, 401, 403, 404, 405, 409, 413, 429, 500, 503)
_PROJECT: Final = Parameter("id", "path", "The project's id.", {"type": "string"})
_PROMPT: Final = Parameter("id", "path", "The prompt's id, or its name.", {"type": "string"})
_IF_MATCH: Final = Parameter(
    "If-Match", "header", "The ETag that was read: 409 if it was changed since.",
    {"type": "string"},
)  # fmt: skip
_FLAG: Final = {"enum": ["true", "false"]}
_NUMBER: Final = {"type": "integer", "minimum": 1, "maximum": 999999999}
_PROJECTS: Final = "/v1/projects"
_PROMPTS: Final = "/v1/prompts"
_SETTINGS: Final = "/v1/users/me/settings"


def _reading(path: str, name: str, text: str, answers: Any, *parameters: Parameter) -> Operation:
    return Operation(
        path, "get", name, text, answers, parameters=parameters, errors=KNOWN, public=False
    )


def _writing(path: str, method: str, name: str, text: str, answers: Any, **more: Any) -> Operation:
    return Operation(path, method, name, text, answers, errors=_WRITING, public=False, **more)


OPERATIONS: Final = (
    _writing(
        _PROJECTS, "post", "createProject", "Make a project.", Project,
        takes=CreateProject, status=201, parameters=(IDEMPOTENCY,),
    ),
    _reading(
        _PROJECTS, "listProjects", "The caller's projects.", ProjectList, *PAGING,
        Parameter("archived", "query", "Those that are archived, or are not.", _FLAG),
        Parameter("favorite", "query", "Those that are favourites, or are not.", _FLAG),
    ),
    _reading(f"{_PROJECTS}/{{id}}", "retrieveProject", "One project.", Project, _PROJECT),
    _writing(
        f"{_PROJECTS}/{{id}}", "patch", "updateProject",
        "Change what is named; the last write wins.", Project,
        takes=UpdateProject, parameters=(_PROJECT, _IF_MATCH, IDEMPOTENCY),
    ),
    _writing(
        f"{_PROJECTS}/{{id}}", "delete", "deleteProject",
        "Delete a project; its conversations stay, without one.", ProjectDeleted,
        parameters=(_PROJECT,),
    ),
    _writing(
        _PROMPTS, "post", "createPrompt",
        "Keep messages with placeholders under a name. `template` is short for one system message.",
        Prompt, takes=CreatePrompt, status=201, parameters=(IDEMPOTENCY,),
    ),
    _reading(
        _PROMPTS, "listPrompts", "The caller's prompts, each in its newest version.", PromptList,
        *PAGING,
        Parameter("project_id", "query", "Those of this project.", {"type": "string"}),
        Parameter("model", "query", "Those for this model.", {"type": "string"}),
    ),
    _reading(
        f"{_PROMPTS}/{{id}}", "retrievePrompt", "A prompt's newest version, or a certain one.",
        Prompt, _PROMPT, Parameter("version", "query", "The version.", _NUMBER),
    ),
    _writing(
        f"{_PROMPTS}/{{id}}", "post", "createPromptVersion",
        "Keep a new version; what is not named is as in the newest.", Prompt,
        takes=CreatePromptVersion, status=201, parameters=(_PROMPT, _IF_MATCH, IDEMPOTENCY),
    ),
    _writing(
        f"{_PROMPTS}/{{id}}", "delete", "deletePrompt", "Delete a prompt with all its versions.",
        PromptDeleted, parameters=(_PROMPT,),
    ),
    _reading(
        f"{_PROMPTS}/{{id}}/versions", "listPromptVersions",
        "A prompt's versions; `after` and `before` are numbers of versions.", PromptList,
        _PROMPT, *PAGING,
    ),
    _reading(_SETTINGS, "retrieveSettings", "The caller's settings.", Settings),
    _writing(
        _SETTINGS, "patch", "updateSettings",
        "Merge changes into the settings; null: back to the default.", Settings,
        takes=UpdateSettings, parameters=(IDEMPOTENCY,),
    ),
    _reading(
        f"{_SETTINGS}/preferences", "retrievePreferences", "The caller's preferences.",
        Preferences,
    ),
    _writing(
        f"{_SETTINGS}/preferences", "patch", "updatePreferences",
        "Merge changes into the preferences; null takes a key away.", Preferences,
        takes=UpdatePreferences, parameters=(IDEMPOTENCY,),
    ),
)  # fmt: skip

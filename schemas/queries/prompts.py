"""Questions about prompt templates, `query.prompts.<verb>`."""

import msgspec

from schemas.api.lists import Paging
from schemas.queries import Ask


class AskPrompt(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.get`: by id or name; the newest version, or a certain one."""

    id: str
    version: int | None = None


class AskPrompts(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.list`: the newest version of each; by project, by model."""

    paging: Paging = Paging()
    project_id: str | None = None
    model: str | None = None


class AskPromptVersions(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.versions`: by id or name; places in this list are versions."""

    id: str
    paging: Paging = Paging()


class AskRendered(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.prompts.render`: a prompt with these values in the places of its variables."""

    id: str
    version: int | None = None
    variables: dict[str, str] = msgspec.field(default_factory=dict)

"""Questions about projects, `query.projects.<verb>`."""

import msgspec

from schemas.api.lists import Paging
from schemas.commands import Webhook
from schemas.queries import Ask


class AskProject(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.get`, and `query.projects.webhook`."""

    id: str


class ProjectWebhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of `query.projects.webhook`: none also if there is no such project any more."""

    webhook: Webhook | None = None


class AskProjects(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.list`: all, or those that are (not) archived, (not) favourites."""

    paging: Paging = Paging()
    archived: bool | None = None
    favorite: bool | None = None

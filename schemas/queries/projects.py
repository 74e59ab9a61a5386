"""Questions about projects, `query.projects.<verb>`."""

from schemas.api.lists import Paging
from schemas.queries import Ask


class AskProject(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.get`."""

    id: str


class AskProjects(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.projects.list`: all, or those that are (not) archived, (not) favourites."""

    paging: Paging = Paging()
    archived: bool | None = None
    favorite: bool | None = None

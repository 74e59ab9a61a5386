"""Questions about shares, `query.shares.<verb>`."""

from schemas.api.lists import Paging
from schemas.queries import Ask


class AskShares(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.shares.list`: all, or those of a conversation."""

    paging: Paging = Paging()
    conversation: str | None = None
    include_revoked: bool = False


class AskPublicShare(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.shares.public`: anybody may ask, who knows the slug."""

    slug: str

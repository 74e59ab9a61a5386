"""Webhooks as the edge knows them: where they may go, whose they are, what signs them."""

from typing import Final

from msgspec import UNSET

from schemas import writes
from schemas.api.projects import ChangeWebhook, SetWebhook
from schemas.commands import Webhook
from schemas.errors import InvalidRequest, Unavailable
from schemas.outbound import Blocked, Outbound
from schemas.queries import AskStored, decode_answer
from schemas.queries.projects import AskProject, ProjectWebhook
from schemas.sealing import seal_same
from schemas.webhooks import is_secret, secret_of

_WHERE: Final = "webhook.url"
_SECRET: Final = "webhook.secret"  # the field's name  # noqa: S105


class Webhooks:
    """Finds and checks them. `ask` reads stored things; `key` seals secrets."""

    def __init__(self, ask: AskStored, outbound: Outbound, key: str) -> None:
        self._ask = ask
        self._outbound = outbound
        self._key = key

    async def find(self, url: str | None, principal: str, project: str | None) -> Webhook | None:
        """Whom a response's end is told: the request's own, or its conversation's project's.

        Raises InvalidRequest naming the field, Unavailable.
        """
        if url is not None:
            self._require_key()
            self._require_reachable(url, "webhook")
            return Webhook(url)
        if project is None:
            return None
        question = AskProject(principal=principal, id=project)
        answer = await self._ask("projects", "webhook", question)
        return decode_answer(answer, ProjectWebhook).webhook

    def to_change(self, given: SetWebhook | ChangeWebhook) -> writes.WebhookChange:
        """What a project is given, checked and sealed. Raises InvalidRequest naming the field."""
        self._require_key()
        if given.url is not UNSET:
            self._require_reachable(given.url, _WHERE)
        if not isinstance(given.secret, str):
            return writes.WebhookChange(given.url, given.secret)
        if not is_secret(given.secret):
            what = "is not `whsec_` and the base 64 of 24 to 64 bytes"
            raise InvalidRequest(f"'{_SECRET}' {what}", param=_SECRET)
        return writes.WebhookChange(given.url, seal_same(self._key, given.secret))

    def secret_of(self, principal: str) -> str:
        """What signs a principal's webhooks that have no secret of their own. Raises Unavailable.

        It is not stored: it follows from the server's key.
        """
        self._require_key()
        return secret_of(self._key, principal)

    def _require_key(self) -> None:
        if not self._key:
            raise Unavailable("this server sends no webhooks: it has no JAN_SEALING_KEY")

    def _require_reachable(self, url: str, param: str) -> None:
        try:
            self._outbound.check(url)
        except Blocked as error:
            raise InvalidRequest(f"'{param}': {error}", param=param) from None

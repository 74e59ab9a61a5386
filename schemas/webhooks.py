"""Webhooks: what is told to a client's server, and how it is signed (Standard Webhooks)."""

import base64
import hashlib
import hmac
from typing import Any

import msgspec

from schemas.commands import encode
from schemas.ids import created_ms, derived_id

_PREFIX = "whsec_"
_PURPOSE = b"jan webhooks 1\0"


class SendWebhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tell a client's server of an event: the job on `jobs.tools.webhooks`.

    `id` is the same for the same event, so that who gets it twice can tell. `body` is what is
    sent. Times in unix seconds.
    """

    id: str
    url: str
    body: msgspec.Raw
    principal: str
    run_id: str
    created: int
    v: int = 1


decode_send_webhook = msgspec.json.Decoder(SendWebhook).decode


def secret_of(key: str, principal: str) -> str:
    """The secret that a principal's webhooks are signed with; it follows from the server's key."""
    digest = hmac.digest(key.encode(), _PURPOSE + principal.encode(), "sha256")
    return _PREFIX + base64.b64encode(digest).decode()


def to_headers(secret: str, webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers by which a body is known to be ours, sent at this time (unix seconds)."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = b"%b.%d.%b" % (webhook_id.encode(), at, body)
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }


def of_response(run_id: str, response: dict[str, Any], url: str, principal: str) -> SendWebhook:
    """What is told of a response that has ended."""
    event_id, created = derived_id("evt_", run_id, 0), created_ms(run_id) // 1000
    told = {
        "id": event_id,
        "object": "event",
        "created_at": response.get("completed_at") or created,
        "type": f"response.{response['status']}",
        "data": {"id": response["id"]},
    }
    return SendWebhook(event_id, url, msgspec.Raw(encode(told)), principal, run_id, created)

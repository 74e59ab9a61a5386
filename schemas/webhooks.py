"""Webhooks: what is told to a client's server, and how it is signed (Standard Webhooks)."""

import base64
import hashlib
import hmac

import msgspec

from schemas.commands import Webhook, encode
from schemas.ids import derived_id, public_id

_PREFIX = "whsec_"
_KEY_SIZES = range(24, 65)
_PURPOSE = b"jan webhooks 1\0"


class SendWebhook(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tell a client's server of an event: the job on `jobs.tools.webhooks`.

    `id` is the same for the same event, so that who gets it twice can tell. `body` is what is
    sent, `secret` what it is signed with: sealed, or empty for the principal's own. Times in unix
    seconds.
    """

    id: str
    url: str
    body: msgspec.Raw
    principal: str
    run_id: str
    created: int
    secret: str = ""
    v: int = 1


decode_send_webhook = msgspec.json.Decoder(SendWebhook).decode


def secret_of(key: str, principal: str) -> str:
    """The secret that a principal's webhooks are signed with; it follows from the server's key."""
    digest = hmac.digest(key.encode(), _PURPOSE + principal.encode(), "sha256")
    return _PREFIX + base64.b64encode(digest).decode()


def is_secret(text: str) -> bool:
    """Whether a text is a secret as Standard Webhooks has it."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:  # binascii.Error, or it is not ASCII
        return False
    return text.startswith(_PREFIX) and len(key) in _KEY_SIZES


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


def of_response(run_id: str, status: str, at: int, webhook: Webhook, principal: str) -> SendWebhook:
    """What is told of a response that has ended with a status, at a time in unix seconds."""
    event_id = derived_id("evt_", run_id, 0)
    told = {
        "id": event_id,
        "object": "event",
        "created_at": at,
        "type": f"response.{status}",
        "data": {"id": public_id(run_id, "response")},
    }
    body = msgspec.Raw(encode(told))
    return SendWebhook(event_id, webhook.url, body, principal, run_id, at, webhook.secret)

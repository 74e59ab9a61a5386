"""API keys as an edge knows them: a watched copy of the bucket `keys`."""

import time

import msgspec
import structlog

from schemas.errors import Unauthorized
from schemas.keys import (
    KeyRecord,
    decode_record,
    decode_revocation,
    hash_key,
    is_revocation,
)

logger = structlog.get_logger()


class Keys:
    """Finds the record of a key that a client shows."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._records: dict[str, KeyRecord] = {}
        self._revoked: dict[str, float] = {}  # all keys that a principal had then

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._records)

    def on_change(self, name: str, value: bytes | None, _revision: int) -> None:
        """Take a change from the bucket's watch."""
        self._records.pop(name, None)
        if value is None:
            return
        try:
            if is_revocation(name):
                told = decode_revocation(value)
                self._revoked[told.principal] = told.at
            else:
                self._records[name] = decode_record(value)
        except msgspec.MsgspecError as error:
            logger.error("an API key's record can't be read", key=name, error=str(error))

    def find(self, key: str) -> KeyRecord:
        """Look a key up. Raises Unauthorized if it is unknown, revoked or expired."""
        record = self._records.get(hash_key(self._secret, key))
        if record is None:
            raise Unauthorized("the API key is not known", code="invalid_api_key")
        gone = record.created <= self._revoked.get(record.principal, -1.0)
        if gone or not record.is_usable(time.time()):
            why = "was revoked" if gone or record.revoked_at is not None else "has expired"
            raise Unauthorized(f"the API key {why}", code="invalid_api_key")
        return record

    def has_any(self, principal: str) -> bool:
        """Tell whether there is a key of a principal, usable or not."""
        return any(record.principal == principal for record in self._records.values())

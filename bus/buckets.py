"""Key-value buckets: a value per key with a revision, and watches that survive a reconnect.

A bucket is a stream `KV_<name>` over `$KV.<name>.>` that republishes to `kv.<name>.>` what it has
stored. A watch is one subscription to that, and a direct read of the stream at the start and after
each reconnect: no consumer on the server, and nothing seen that was not stored.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from bus.connection import Bus, Subscription
from bus.wire import Message, header_value
from schemas.errors import BusError, Conflict, WrongLastSequence

logger = structlog.get_logger()

OnChange = Callable[[str, bytes | None, int], None]  # key, value (None: deleted), revision


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value and the revision to give when updating it."""

    value: bytes
    revision: int


class Bucket:
    """One bucket of the bus. Keys are made of `[A-Za-z0-9_=.-]`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name
        self._stream = f"KV_{name}"

    async def get(self, key: str) -> Entry | None:
        """Read a key; None if it was never set, was deleted or has expired."""
        stored = await self._bus.last_message(self._stream, self._subject(key))
        if stored is None or _is_deletion(stored.headers):
            return None
        return Entry(stored.data, stored.seq)

    async def put(self, key: str, value: bytes, *, ttl: int = 0) -> int:
        """Set a key, whatever it held; return the revision. `ttl` in seconds, 0: the bucket's."""
        ack = await self._bus.store(self._subject(key), value, headers=_ttl(ttl))
        return ack.seq

    async def create(self, key: str, value: bytes, *, ttl: int = 0) -> int:
        """Set a key that must not be there; return the revision. Raises Conflict if it is."""
        try:
            return await self._store(key, value, 0, ttl)
        except WrongLastSequence:
            stored = await self._bus.last_message(self._stream, self._subject(key))
            if stored is not None and not _is_deletion(stored.headers):
                raise Conflict(f"the key {key} exists already") from None
            return await self.update(key, value, stored.seq if stored else 0, ttl=ttl)

    async def update(self, key: str, value: bytes, revision: int, *, ttl: int = 0) -> int:
        """Set a key that must still have `revision`; return the new one. Raises Conflict."""
        try:
            return await self._store(key, value, revision, ttl)
        except WrongLastSequence:
            raise Conflict(f"the key {key} was changed meanwhile") from None

    async def delete(self, key: str) -> None:
        """Delete a key; watchers are told. Idempotent."""
        await self._bus.store(self._subject(key), b"", headers=b"KV-Operation: DEL\r\n")

    async def watch(self, on_change: OnChange, *, prefix: str = "") -> "Watch":
        """Call `on_change` for every key now and for every change from now on.

        Returns after the present values were delivered. A change may be delivered twice, never
        an older one after a newer one. `prefix` narrows the watch to keys `<prefix>.…`.
        """
        watch = Watch(self._bus, self._name, f"{prefix}.>" if prefix else ">", on_change)
        await watch.start()
        return watch

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"

    async def _store(self, key: str, value: bytes, revision: int, ttl: int) -> int:
        subject = self._subject(key)
        ack = await self._bus.store(subject, value, expect_last=revision, headers=_ttl(ttl))
        return ack.seq


class Watch:
    """A running watch on a bucket; `stop` ends it."""

    def __init__(self, bus: Bus, bucket: str, keys: str, on_change: OnChange) -> None:
        self._bus = bus
        self._bucket = bucket
        self._keys = keys
        self._on_change = on_change
        self._revisions: dict[str, int] = {}
        self._subscription: Subscription | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen first, then read what is there."""
        self._subscription = await self._bus.subscribe(
            f"kv.{self._bucket}.{self._keys}", self._on_message
        )
        self._forget = self._bus.on_reconnect(self._read_again)
        await self._read()

    async def stop(self) -> None:
        """End the watch."""
        if self._reading is not None:
            self._reading.cancel()
        if self._subscription is not None:
            self._forget()
            await self._subscription.unsubscribe()
            self._subscription = None

    def _on_message(self, message: Message) -> None:
        key = message.subject[len(f"kv.{self._bucket}.") :].decode()
        revision = int(message.header(b"Nats-Sequence") or 0)
        self._apply(key, message.headers, message.data, revision)

    def _apply(self, key: str, headers: bytes, data: bytes, revision: int) -> None:
        if revision <= self._revisions.get(key, 0):
            return
        self._revisions[key] = revision
        self._on_change(key, None if _is_deletion(headers) else data, revision)

    async def _read(self) -> None:
        start = len(f"$KV.{self._bucket}.")
        seen: set[str] = set()
        subject = f"$KV.{self._bucket}.{self._keys}"
        async for stored in self._bus.read_subject(f"KV_{self._bucket}", subject):
            key = stored.subject[start:]
            seen.add(key)
            self._apply(key, stored.headers, stored.data, stored.seq)
        # What is no longer stored was deleted or has expired while nobody told us.
        for key in [key for key in self._revisions if key not in seen]:
            revision = self._revisions.pop(key)
            self._on_change(key, None, revision)

    def _read_again(self) -> None:
        if self._subscription is None:
            return
        if self._reading is not None:
            self._reading.cancel()
        self._reading = asyncio.create_task(self._read_until_it_works())

    async def _read_until_it_works(self) -> None:
        while True:
            try:
                return await self._read()
            except BusError as error:
                logger.warning("watch is read again", bucket=self._bucket, error=str(error))
                await asyncio.sleep(0.2)


def _is_deletion(headers: bytes) -> bool:
    return header_value(headers, b"KV-Operation") in (b"DEL", b"PURGE")


def _ttl(seconds: int) -> bytes:
    return b"Nats-TTL: %ds\r\n" % seconds if seconds else b""

"""Where large bodies lie: a directory, or an S3 bucket. Keys are safe path names."""

import asyncio
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from schemas.errors import NotFound

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class ObjectStore(Protocol):
    """Keeps bytes under a key. Raises NotFound for an unknown key."""

    async def put(self, key: str, data: bytes) -> None:
        """Store `data`, whole or not at all."""

    async def get(self, key: str) -> bytes:
        """Read what was stored."""

    async def delete(self, key: str) -> None:
        """Forget it. Idempotent."""

    async def expire(self, folder: str, before: float, prefix: str = "") -> int:
        """Forget what was stored in a folder before a moment (unix seconds); return how many.

        With a `prefix`, only what has a name that begins so.
        """


class DirectoryStore:
    """Objects as files below a folder that all processes of a machine share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, key: str, data: bytes) -> None:
        """Write to a file beside the target, then rename: readers never see half of it."""
        await asyncio.to_thread(self._write, self._path(key), data)

    async def get(self, key: str) -> bytes:
        """Read the file."""
        try:
            return await asyncio.to_thread(self._path(key).read_bytes)
        except FileNotFoundError:
            raise NotFound(f"no object {key}") from None

    async def delete(self, key: str) -> None:
        """Remove the file."""
        await asyncio.to_thread(self._path(key).unlink, True)

    async def expire(self, folder: str, before: float, prefix: str = "") -> int:
        """Remove the files that were not written since."""
        return await asyncio.to_thread(_remove_older, self._path(folder), before, prefix)

    def _path(self, key: str) -> Path:
        return self._folder / checked(key)

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.{os.getpid()}.half")
        half.write_bytes(data)
        half.replace(path)


def _remove_older(folder: Path, before: float, prefix: str) -> int:
    removed = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process removes them too
                wanted = entry.is_file() and entry.name.startswith(prefix)
                if wanted and entry.stat().st_mtime < before:
                    os.unlink(entry.path)
                    removed += 1
    return removed


def checked(key: str) -> str:
    """Return the key. Raises ValueError if it is not made of plain names."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key!r}")
    return key


def open_store(
    folder: Path, *, s3_url: str = "", s3_bucket: str = "", access_key: str = "", secret: str = ""
) -> ObjectStore:
    """Open the object store: S3 if `s3_url` is given, else `folder`."""
    if not s3_url:
        return DirectoryStore(folder)
    from bus.s3 import S3Store  # noqa: PLC0415 - its client takes 0.2 s to load

    return S3Store(s3_url, s3_bucket, access_key, secret)

"""Where large bodies lie: a directory, or an S3 bucket. Keys are safe path names."""

import asyncio
import io
import os
import re
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from minio import Minio
from minio.error import S3Error

from schemas.errors import NotFound, Unavailable

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class ObjectStore(Protocol):
    """Keeps bytes under a key. Raises NotFound for an unknown key."""

    async def put(self, key: str, data: bytes) -> None:
        """Store `data`, whole or not at all."""

    async def get(self, key: str) -> bytes:
        """Read what was stored."""

    async def delete(self, key: str) -> None:
        """Forget it. Idempotent."""


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

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not an object key: {key!r}")
        return self._folder / key

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.{os.getpid()}.half")
        half.write_bytes(data)
        half.replace(path)


class S3Store:
    """Objects in an S3 bucket, through minio's client in threads (it is synchronous)."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    async def put(self, key: str, data: bytes) -> None:
        """Upload in one request."""
        await self._call(
            self._client.put_object, self._bucket, key, io.BytesIO(data), length=len(data)
        )

    async def get(self, key: str) -> bytes:
        """Download it whole."""
        return await asyncio.to_thread(self._read, key)

    async def delete(self, key: str) -> None:
        """Remove it."""
        await self._call(self._client.remove_object, self._bucket, key)

    def _read(self, key: str) -> bytes:
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise NotFound(f"no object {key}") from None
            raise Unavailable(f"the object store answered {error.code}") from error
        with response:
            return bytes(response.read())

    async def _call(self, function: object, *args: object, **options: object) -> None:
        assert callable(function)
        try:
            await asyncio.to_thread(function, *args, **options)
        except S3Error as error:
            raise Unavailable(f"the object store answered {error.code}") from error


def open_store(
    folder: Path, *, s3_url: str = "", s3_bucket: str = "", access_key: str = "", secret: str = ""
) -> ObjectStore:
    """Open the object store: S3 if `s3_url` is given, else `folder`."""
    if not s3_url:
        return DirectoryStore(folder)
    parts = urlsplit(s3_url)
    client = Minio(
        parts.netloc, access_key=access_key, secret_key=secret, secure=parts.scheme == "https"
    )
    return S3Store(client, s3_bucket)

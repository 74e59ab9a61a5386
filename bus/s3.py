"""Objects in an S3 bucket, through minio's client in threads (it is synchronous)."""

import asyncio
import io
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import S3Error

from bus.objects import checked
from schemas.errors import NotFound, Unavailable

_T = TypeVar("_T")
_TIMEOUT = urllib3.Timeout(connect=2, read=30)


class S3Store:
    """One bucket of an S3 server. Raises NotFound, or Unavailable if the server fails."""

    def __init__(self, url: str, bucket: str, access_key: str, secret: str) -> None:
        parts = urlsplit(url)
        self._client = Minio(
            parts.netloc,
            access_key=access_key,
            secret_key=secret,
            secure=parts.scheme == "https",
            # No retries: they would hold a request for minutes when the store is down.
            http_client=urllib3.PoolManager(timeout=_TIMEOUT, retries=False, maxsize=32),
        )
        self._bucket = bucket

    async def put(self, key: str, data: bytes) -> None:
        """Upload in one request."""
        name, body = checked(key), io.BytesIO(data)
        await _in_thread(lambda: self._client.put_object(self._bucket, name, body, len(data)))

    async def get(self, key: str) -> bytes:
        """Download it whole."""
        name = checked(key)
        return await _in_thread(lambda: self._read(name))

    async def delete(self, key: str) -> None:
        """Remove it."""
        name = checked(key)
        await _in_thread(lambda: self._client.remove_object(self._bucket, name))

    async def expire(self, folder: str, before: float, prefix: str = "") -> int:
        """Remove the objects that were not written since."""
        begin = f"{checked(folder)}/{prefix}"
        return await _in_thread(lambda: self._remove_older(begin, before))

    def _remove_older(self, prefix: str, before: float) -> int:
        removed = 0
        for found in self._client.list_objects(self._bucket, prefix):
            key, written = found.object_name, found.last_modified
            # Some servers list the folder itself, too.
            if key and key != prefix and written is not None and written.timestamp() < before:
                self._client.remove_object(self._bucket, key)
                removed += 1
        return removed

    def _read(self, key: str) -> bytes:
        response = self._client.get_object(self._bucket, key)
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()


async def _in_thread(call: Callable[[], _T]) -> _T:
    try:
        return await asyncio.to_thread(call)
    except S3Error as error:
        if error.code == "NoSuchKey":
            raise NotFound("there is no such object") from None
        raise Unavailable(f"the object store answered {error.code}") from error
    except urllib3.exceptions.HTTPError as error:
        raise Unavailable(f"the object store can't be reached: {type(error).__name__}") from error

"""The object store: one contract for a directory and for a real S3 server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.objects import ObjectStore, open_store
from schemas.errors import NotFound, Unavailable
from tests.support.s3 import ACCESS_KEY, BUCKET, SECRET, S3Server, running_s3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def s3_store(server: S3Server, secret: str = SECRET) -> ObjectStore:
    return open_store(
        Path(), s3_url=server.url, s3_bucket=BUCKET, access_key=ACCESS_KEY, secret=secret
    )


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return open_store(tmp_path / "objects")
    return s3_store(request.getfixturevalue("s3"))


async def test_what_is_put_is_got_until_it_is_deleted(store: ObjectStore) -> None:
    body = bytes(range(256)) * 8192
    await store.put("requests/run_1", b"first")
    await store.put("requests/run_1", body)
    assert await store.get("requests/run_1") == body
    await store.delete("requests/run_1")
    await store.delete("requests/run_1")
    with pytest.raises(NotFound):
        await store.get("requests/run_1")


async def test_what_is_old_expires(store: ObjectStore) -> None:
    for key in ("requests/run_1", "requests/run_2", "others/run_1"):
        await store.put(key, b"body")
    assert await store.expire("requests", time.time() - 60) == 0
    assert await store.expire("requests", time.time() + 60) == 2
    assert await store.expire("requests", time.time() + 60) == 0
    with pytest.raises(NotFound):
        await store.get("requests/run_1")
    assert await store.get("others/run_1") == b"body"


async def test_what_begins_alike_expires_alone(store: ObjectStore) -> None:
    for key in ("exports/a.1", "exports/a.1.0", "exports/b.1"):
        await store.put(key, b"body")
    assert await store.expire("exports", time.time() + 60, "a.") == 2
    assert await store.get("exports/b.1") == b"body"
    assert await store.expire("exports", time.time() + 60, "b") == 1


async def test_an_empty_object_is_one(store: ObjectStore) -> None:
    await store.put("empty", b"")
    assert await store.get("empty") == b""


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", "a//b", ".hidden", "a/../b", ""])
async def test_a_key_that_is_no_plain_path_is_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="object key"):
        await store.put(key, b"")


async def test_a_wrong_secret_is_told_without_showing_it(s3: S3Server) -> None:
    with pytest.raises(Unavailable) as refused:
        await s3_store(s3, "not-the-secret").put("a", b"")
    assert "not-the-secret" not in str(refused.value)


async def test_a_store_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        store = s3_store(server)
        server.kill()
        with pytest.raises(Unavailable, match="can't be reached"):
            await store.get("a")

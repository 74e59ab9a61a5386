"""API keys on a real bus: made, listed, revoked, and never stored as they are."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bus import Bucket, Bus, open_bus
from cli.__main__ import run
from cli.exits import BadSetup
from cli.keys import create_first, create_key, read_all, revoke_key
from cli.state import Data, Record, State, Urls, data_at, ensure_secrets, prepare, write_private
from schemas import subjects
from schemas.keys import KeyLimits, hash_key
from tests.support.nats import NatsServer, migrate

SECRET = "0123456789abcdef" * 4


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    await migrate(nats)
    async with open_bus(nats.url("cli"), name="cli") as opened:
        yield opened


@pytest.fixture
def bucket(bus: Bus) -> Bucket:
    return Bucket(bus, subjects.KV_KEYS)


@pytest.fixture
def data(nats: NatsServer, bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """A data directory as the supervisor leaves it, for the server of this test."""
    for name in ("JAN_NATS_URL", "JAN_API_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    found = data_at(tmp_path / "data")
    prepare(found)
    ensure_secrets(found)
    write_private(found.keys / "nats.json", msgspec.json.encode(nats.passwords))
    found.write(Record(urls=Urls(nats=f"nats://127.0.0.1:{nats.port}")))
    return found


async def test_a_key_is_found_by_its_hash_and_stored_nowhere(bucket: Bucket) -> None:
    limits = KeyLimits(rpm=5, in_flight=2)
    key, record = await create_key(bucket, SECRET, name="tests", limits=limits)
    entry = await bucket.get(hash_key(SECRET.encode(), key))
    assert entry is not None
    assert key.encode() not in entry.value
    assert (record.limits, record.name, record.suffix) == (limits, "tests", key[-4:])


async def test_each_key_has_an_owner_of_its_own_unless_one_is_named(bucket: Bucket) -> None:
    _, first = await create_key(bucket, SECRET)
    _, second = await create_key(bucket, SECRET)
    _, third = await create_key(bucket, SECRET, principal=first.principal)
    assert first.principal == third.principal != second.principal


async def test_a_revoked_key_stays_listed_and_is_not_usable(bucket: Bucket) -> None:
    _, kept = await create_key(bucket, SECRET)
    _, record = await create_key(bucket, SECRET)
    revoked = await revoke_key(bucket, record.id)
    assert await revoke_key(bucket, record.id) == revoked  # once more changes nothing
    records = [found for found, _ in (await read_all(bucket)).values()]
    assert [found.id for found in records] == [kept.id, record.id]
    assert [found.is_usable(time.time()) for found in records] == [True, False]


async def test_revoking_what_is_not_there_says_so(bucket: Bucket) -> None:
    with pytest.raises(BadSetup, match="there is no key key_nix"):
        await revoke_key(bucket, "key_nix")


async def test_only_the_first_start_makes_a_key(data: Data) -> None:
    state = State(data, data.read())
    assert (await create_first(state) or "").startswith("sk_live_")
    assert await create_first(state) is None


async def test_the_verb_makes_lists_and_revokes(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    async def jan(*argv: str) -> object:
        code = await asyncio.to_thread(run, ["keys", *argv, "--json", "--data", str(data.path)])
        assert code == 0
        return msgspec.json.decode(capsys.readouterr().out)

    made = await jan("create", "--name", "ci", "--rpm", "7", "--expires", "1d")
    assert isinstance(made, dict)
    assert made["key"].startswith("sk_live_")
    assert made["limits"]["rpm"] == 7
    assert 86300 < made["expires_at"] - time.time() <= 86400
    assert "key" not in str(await jan("list")).replace(made["id"], "")
    revoked = await jan("revoke", made["id"])
    assert isinstance(revoked, dict)
    assert not revoked["usable"]


def test_without_a_server_the_verb_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JAN_NATS_URL", raising=False)
    assert run(["keys", "list", "--data", str(tmp_path)]) == 2
    assert "start a server" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--expires", "2001-01-01"], ["--rpm", "-1"]])
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "create", *option, "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("jan: ")

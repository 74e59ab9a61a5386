"""The providers file while it is edited: half-written, wrong, right, replaced, gone."""

import asyncio
import contextlib
import io
from pathlib import Path

import pytest

from cli.exits import Exit
from cli.logs import Logs
from cli.reload import follow
from schemas.errors import EngineUnavailable
from schemas.providers import Providers, read_providers
from workers.inference.reload import ProvidersFile

ONE = "providers: [{name: a, kind: simulated, models: [{id: one}]}]"
TWO = "providers: [{name: a, kind: simulated, models: [{id: one}, {id: two}]}]"


class Seen:
    """What a watched file led to."""

    def __init__(self, path: Path) -> None:
        path.write_text(ONE)
        self.path = path
        self.used: list[list[str]] = []
        self.errors: list[str] = []
        self.fails = False
        self.file = ProvidersFile(path, read_providers(ONE), self._use, self.errors.append)

    async def _use(self, providers: Providers) -> None:
        if self.fails:
            raise EngineUnavailable("no such model")
        self.used.append([model.id for model in providers.providers[0].models])

    async def looks(self, times: int = 1) -> None:
        for _ in range(times):
            await self.file.look()


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "providers.yaml")


async def test_what_is_in_use_already_is_not_used_again(seen: Seen) -> None:
    await seen.looks(3)
    seen.path.write_text(f"# a comment\n{ONE}")
    await seen.looks(3)
    assert (seen.used, seen.errors) == ([], [])


async def test_a_right_edit_is_used_once(seen: Seen) -> None:
    seen.path.write_text(TWO)
    await seen.looks(3)
    assert seen.used == [["one", "two"]]


async def test_a_file_that_is_replaced_as_editors_do_is_used(seen: Seen) -> None:
    await seen.looks()
    beside = seen.path.with_name("new")
    beside.write_text(TWO)
    beside.replace(seen.path)
    await seen.looks()
    assert seen.used == [["one", "two"]]


async def test_what_is_half_written_for_a_moment_is_no_error(seen: Seen) -> None:
    seen.path.write_text(TWO[:30])
    await seen.looks()
    seen.path.write_text(TWO)
    await seen.looks(2)
    assert (seen.used, seen.errors) == ([["one", "two"]], [])


async def test_a_wrong_edit_is_told_once_and_a_right_one_after_it_is_used(seen: Seen) -> None:
    seen.path.write_text("providers:\n  - nme: a\n")
    await seen.looks(4)
    assert len(seen.errors) == 1
    assert "providers.yaml:2: providers[0]" in seen.errors[0]
    seen.path.write_text(TWO)
    await seen.looks(2)
    assert seen.used == [["one", "two"]]


async def test_a_file_that_is_gone_changes_nothing(seen: Seen) -> None:
    seen.path.unlink()
    await seen.looks(3)
    assert (seen.used, seen.errors) == ([], [])


async def test_an_engine_that_can_not_be_opened_is_told_once(seen: Seen) -> None:
    seen.fails = True
    seen.path.write_text(TWO)
    await seen.looks(4)
    assert seen.errors == ["no such model"]


async def test_models_are_looked_for_again_as_often_as_a_provider_wants(tmp_path: Path) -> None:
    text = (
        "providers: [{name: a, kind: openai, base_url: 'http://127.0.0.1:1/v1', "
        "discover: {every_s: 1}}]"
    )
    path = tmp_path / "providers.yaml"
    path.write_text(text)
    calls = 0
    twice = asyncio.Event()

    async def migrate() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        raise Exit("the bus is away")  # once is not for ever

    said = io.StringIO()
    with contextlib.closing(Logs(tmp_path, said)) as logs:
        following = asyncio.create_task(follow(path, read_providers(text), migrate, logs))
        waiting = asyncio.create_task(twice.wait())
        await asyncio.wait((following, waiting), timeout=8, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
    assert twice.is_set()
    assert "the bus is away" in said.getvalue()

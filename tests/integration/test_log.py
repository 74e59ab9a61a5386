"""`jan log` on a real bus: with the database and without, afterwards and live."""

import asyncio
import json
import time

import pytest

from bus import Bus
from cli.exits import BadSetup, Exit
from schemas import frames, ids, subjects
from schemas.commands import CancelRun, encode
from schemas.queries.runs import AskRun
from tests.support.log import Told, show
from tests.support.nats import NatsServer, migrate
from tests.support.persistence import running_worker
from tests.support.postgres import PostgresServer
from tests.support.runs import accepted, finished, new_run, started, store, tellers

pytestmark = pytest.mark.usefixtures("jan_finds_nats")


class Run:
    """A run's edge and worker, told what to do by the test."""

    def __init__(self, edge: Bus, inference: Bus) -> None:
        self.id = new_run()
        self.subject = subjects.frames("edge-1", self.id)
        self._edge, self._inference = edge, inference
        self._began = time.time()

    async def accept(self, **about: str) -> None:
        """Tell that it was accepted."""
        fact = accepted(self.id, at=self._began, **about)  # type: ignore[arg-type]
        await store(self._edge, self._inference, [fact])

    async def begin(self) -> int:
        """Take it."""
        fence = frames.encode_trailer(frames.Fence("nonce", 1, "inference-1", self._began + 600))
        epoch = await self._store(frames.FENCE, trailer=fence)
        at = time.time()
        await store(self._edge, self._inference, [started(self.id, epoch=epoch, at=at)])
        return epoch

    async def say(self, epoch: int, first: int, count: int, *, last: bool = False) -> None:
        """Store some frames."""
        trailer = frames.encode_trailer(frames.Commit("completed", "local/m", "inference-1"))
        data = b"".join(frames.sse(first + n, b"{}") for n in range(count))
        await self._store(
            frames.DATA,
            epoch=epoch,
            first=first,
            count=count,
            data=data,
            flags=frames.COMMIT if last else 0,
            trailer=trailer if last else b"",
        )

    async def finish(self) -> None:
        """Tell the end, to the log and then to the readers."""
        fact = finished(self.id, at=time.time())
        (seq,) = await store(self._edge, self._inference, [fact])
        await self._store(frames.END, trailer=frames.encode_trailer(frames.End(seq)))

    async def _store(self, kind: int, **fields: object) -> int:
        message = frames.encode(kind, at=time.time_ns() // 1000, **fields)  # type: ignore[arg-type]
        return (await self._inference.store(self.subject, message)).seq


async def complete(run: Run, **about: str) -> None:
    await run.accept(**about)
    epoch = await run.begin()
    await run.say(epoch, 0, 3)
    await run.say(epoch, 3, 2, last=True)
    await run.finish()


WHOLE = [
    *("accepted", "queued", "fence", "picked"),
    *("first", "frames", "commit", "completed", "end"),
]


async def test_a_run_is_shown_by_each_of_its_ids(
    nats: NatsServer, postgres: PostgresServer, told: Told
) -> None:
    await migrate(nats)
    async with (
        tellers(nats) as (edge, inference),
        postgres.database() as url,
        running_worker(nats, url),
    ):
        await complete(Run(edge, inference))
        run = Run(edge, inference)
        await complete(run, request_id="req_wanted")
        await _projected(edge, run.id)
        for given in (run.id, ids.public_id(run.id, "chat"), "req_wanted"):
            assert await show(given) == 0
            assert told.facts() == WHOLE
            assert {json.loads(line)["run_id"] for line in told.lines} == {run.id}
            told.lines.clear()
        with pytest.raises(Exit, match="nothing is known of req_other") as unknown:
            await show("req_other")
        assert unknown.value.code == 1
        assert told.errors == ""


async def _projected(bus: Bus, run_id: str) -> None:
    question = encode(AskRun(run_id=run_id))
    async with asyncio.timeout(30):
        while b'"completed"' not in await bus.ask("query.runs.get", question):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_without_the_database_the_log_is_searched(nats: NatsServer, told: Told) -> None:
    await migrate(nats)
    async with tellers(nats) as (edge, inference):
        run = Run(edge, inference)
        await complete(run)
        assert await show(run.id) == 0
        assert told.facts() == WHOLE
        assert "searching the log" in told.errors

        assert await show(run.id, as_json=False) == 0
        assert told.look()[len(WHOLE)].startswith(f"{run.id} · chat · m")

        with pytest.raises(Exit, match="looked up in the database"):
            await show("req_1")


async def test_an_unknown_run_is_said_to_be_unknown(nats: NatsServer) -> None:
    await migrate(nats)
    for run_id in (new_run(), "run_" + "z" * 26, "run_" + "0" * 26):
        with pytest.raises(Exit, match=f"nothing is known of {run_id}") as unknown:
            await show(run_id)
        assert unknown.value.code == 1


@pytest.mark.parametrize("given", ["", "run_", "run_01", "chatcmpl-xyz", "two words", "\x1b[2J"])
async def test_what_is_no_id_is_refused(given: str) -> None:
    with pytest.raises(BadSetup, match="is not an id"):
        await show(given)


async def test_a_bus_that_is_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAN_NATS_URL", "nats://127.0.0.1:1")
    with pytest.raises(Exit, match="is the server running"):
        await show(new_run())


async def test_a_run_is_followed_to_its_end(nats: NatsServer, told: Told) -> None:
    await migrate(nats)
    async with tellers(nats) as (edge, inference):
        run = Run(edge, inference)
        await run.accept()
        following = asyncio.create_task(show(run.id, follow=True))
        await told.until("queued")
        epoch = await run.begin()
        await told.until("picked")
        await run.say(epoch, 0, 3)
        await told.until("first")
        await edge.store(subjects.cancel(run.id), encode(CancelRun(run.id, "enough")))
        await told.until("cancel")
        await run.say(epoch, 3, 2, last=True)
        await told.until("commit")
        assert not following.done()
        await run.finish()
        assert await asyncio.wait_for(following, 10) == 0
        assert sorted(told.facts()) == sorted([*WHOLE, "cancel"])


async def test_following_survives_a_restart_of_the_bus(nats: NatsServer, told: Told) -> None:
    await migrate(nats)
    async with tellers(nats) as (edge, inference):
        run = Run(edge, inference)
        await run.accept()
        following = asyncio.create_task(show(run.id, follow=True))
        await told.until("queued")
        back = [asyncio.Event(), asyncio.Event()]
        edge.on_reconnect(back[0].set)
        inference.on_reconnect(back[1].set)
        nats.kill()
        nats.start()
        for reconnected in back:
            await asyncio.wait_for(reconnected.wait(), 10)
        epoch = await run.begin()
        await run.say(epoch, 0, 1, last=True)
        await run.finish()
        assert await asyncio.wait_for(following, 20) == 0
        assert told.facts()[-1] == "end"

"""Replays on a real bus and worker: the same again, in a sandbox."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from bus import open_bus, open_store
from cli.run_reader import asking
from edge.inbox import open_inbox
from edge.recorded import Requests
from edge.replays import Recorded, Replays
from edge.responses.references import References
from edge.responses.replaying import Repeating
from schemas import ids, subjects
from schemas.api.needs import Needs
from schemas.api.replays import Replay
from schemas.commands import Kind, RunInference, Target, decode_cancel_run
from schemas.errors import DeadlineExceeded, Gone
from schemas.events import RunAccepted, decode_run_finished, decode_run_started
from schemas.transcripts import ToolCall, Transcript
from tests.support.inference import MODEL, Desk, running_worker
from tests.support.nats import NatsServer

TOOL = {"type": "function", "function": {"name": "get_weather"}}
HERE = Target(f"simulated/{MODEL}", "simulated")


def here(model: str, kind: Kind, needs: Needs) -> list[Target]:
    """One deployment for everything."""
    return [HERE]


@dataclass(frozen=True)
class Booth:
    """A worker at work, and replays as an operator orders them."""

    desk: Desk
    replays: Replays

    async def run(self, text: str, **options: Any) -> Recorded:
        """Have something generated, for a replay to repeat."""
        job = await self.desk.submit(text, **options)
        await self.desk.until(job.run_id)
        (finished,) = await self.desk.finished(job.run_id)
        return Recorded(RunAccepted(job, float(job.created)), finished)

    async def again(self, recorded: Recorded) -> Replay:
        """Run it again."""
        async with asyncio.timeout(20):
            return await self.replays.report(await self.replays.start(recorded, ids.new_run_id()))


@pytest_asyncio.fixture
async def booth(server: NatsServer, desk: Desk, tmp_path: Path) -> AsyncIterator[Booth]:
    async with running_worker(server, data=tmp_path), open_replays(server, tmp_path) as replays:
        yield Booth(desk, replays)


@asynccontextmanager
async def open_replays(
    server: NatsServer, data: Path, deadline: float = 30.0
) -> AsyncIterator[Replays]:
    """Connect as `jan replay` does."""
    async with (
        open_bus(server.url("cli"), name="replays") as bus,
        open_inbox(bus, "jan-replay") as inbox,
    ):
        yield Replays(
            bus,
            inbox,
            Requests(open_store(data / "objects"), asking(bus), References(asking(bus), "a key")),
            here,
            Repeating(asking(bus)),
            deadline=deadline,
        )


def transcript_of(replay: Replay) -> Transcript:
    assert isinstance(replay.replay, Transcript)
    return replay.replay


async def test_a_streamed_run_with_a_tool_is_the_same_again(booth: Booth) -> None:
    recorded = await booth.run('!tool get_weather {"city": "Oslo"}', tools=[TOOL])
    replay = await booth.again(recorded)
    assert replay.same is True
    (choice,) = transcript_of(replay).choices
    assert choice.tool_calls == [ToolCall("get_weather", {"city": "Oslo"})]
    assert choice.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("tell me", {"stream": False}),
        ("tell me twice", {"n": 2}),
        ("embed me", {"kind": "embedding", "stream": False}),
        ("!fail 500", {}),
        ("!fail 500", {"stream": False}),
        ("!fail 500 4", {}),
    ],
)
async def test_whatever_it_was_it_is_the_same_again(
    booth: Booth, text: str, options: dict[str, Any]
) -> None:
    recorded = await booth.run(text, **options)
    replay = await booth.again(recorded)
    assert replay.same is True, replay
    assert replay.status == recorded.finished.status


async def test_nothing_of_a_replay_is_told_as_a_runs(booth: Booth) -> None:
    recorded = await booth.run("hello")
    replay = await booth.again(recorded)
    told = await facts_about(booth.desk, replay.id, 2)
    shard = subjects.shard(replay.id)
    assert list(told) == [f"events.replay.started.{shard}", f"events.replay.finished.{shard}"]
    started, finished = told.values()
    assert decode_run_started(started).replay_of == recorded.command.run_id
    ended = decode_run_finished(finished)
    assert (ended.replay_of, ended.result) == (recorded.command.run_id, None)
    frames = booth.desk.bus.read_subject(
        subjects.TOKENS, subjects.frames(subjects.REPLAYS, replay.id)
    )
    assert [stored async for stored in frames]


async def facts_about(desk: Desk, run_id: str, count: int) -> dict[str, bytes]:
    """Read what the log has about a run, once it has so many facts."""
    async with asyncio.timeout(10):
        while True:  # each look is a round trip: nothing spins
            log = desk.observer.read_subject(subjects.EVENTS, subjects.event_shard(run_id))
            found = {one.subject: one.data async for one in log if run_id.encode() in one.data}
            if len(found) >= count:
                return found


async def test_a_result_that_the_log_does_not_hold_is_read_from_its_frames(booth: Booth) -> None:
    recorded = await booth.run("!tokens 40")
    finished = msgspec.structs.replace(recorded.finished, result=None)
    assert (await booth.again(Recorded(recorded.accepted, finished))).same is True


async def test_a_large_request_is_found_in_the_object_store_while_it_is_kept(
    booth: Booth, tmp_path: Path
) -> None:
    recorded = await booth.run("a large one, let us say")
    objects = open_store(tmp_path / "objects")
    command = recorded.command
    reference = f"requests/{command.run_id}"
    await objects.put(reference, bytes(command.request or b""))
    moved = msgspec.structs.replace(command, request=None, request_ref=reference)
    large = Recorded(RunAccepted(moved, recorded.accepted.at), recorded.finished)
    assert (await booth.again(large)).same is True
    await objects.delete(reference)
    with pytest.raises(Gone, match="no longer in the object store"):
        await booth.again(large)


async def test_a_request_that_was_not_recorded_is_told(booth: Booth) -> None:
    recorded = await booth.run("secret")
    bare = msgspec.structs.replace(recorded.command, request=None)
    with pytest.raises(Gone, match="JAN_LOG_CONTENT"):
        await booth.again(Recorded(RunAccepted(bare, 0.0), recorded.finished))


def recorded_without_a_worker() -> Recorded:
    job = RunInference(
        run_id=ids.new_run_id(),
        kind="chat",
        edge="edge-1",
        principal="user_a",
        model=MODEL,
        targets=[HERE],
        created=0,
        deadline=0.0,
        request_id="req_1",
        request=msgspec.Raw(b"{}"),
    )
    finished = decode_run_finished(
        msgspec.json.encode({"run_id": job.run_id, "status": "completed", "at": 1.0})
    )
    return Recorded(RunAccepted(job, 0.0), finished)


async def test_a_replay_that_nobody_carries_out_is_given_up_and_cancelled(
    server: NatsServer, desk: Desk, tmp_path: Path
) -> None:
    async with open_replays(server, tmp_path, deadline=-4.5) as replays:
        started = await replays.start(recorded_without_a_worker(), ids.new_run_id())
        with pytest.raises(DeadlineExceeded):
            await replays.report(started)
        assert await cancel_of(desk, started.run_id) == "nobody waits for the replay"


async def test_a_replay_that_is_waited_for_no_more_is_cancelled(
    server: NatsServer, desk: Desk, tmp_path: Path
) -> None:
    async with open_replays(server, tmp_path) as replays:
        started = await replays.start(recorded_without_a_worker(), ids.new_run_id())
        waiting = asyncio.create_task(replays.report(started))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await cancel_of(desk, started.run_id) == "nobody waits for the replay"


async def cancel_of(desk: Desk, run_id: str) -> str:
    """Read why a run was cancelled, once it is."""
    async with asyncio.timeout(10):
        while True:  # each look is a round trip: nothing spins
            stored = await desk.observer.last_message(subjects.CONTROL, subjects.cancel(run_id))
            if stored is not None:
                return decode_cancel_run(stored.data).reason

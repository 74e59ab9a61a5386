"""A call from its queue to its end, on a real nats-server: begun once, told once, whoever dies."""

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import Bucket
from schemas import subjects
from schemas.tools import Tool, decode_tool
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.tools import (
    Said,
    ToolDesk,
    open_tool_desk,
    running_tools,
    scripted,
    words_for,
)
from workers.tools.call import DEATHS
from workers.tools.outcome import Answer, Failed
from workers.tools.tool import Context


async def echo(said: Said, call: Context) -> Answer:
    """Say it as often as asked."""
    return Answer(said.text * said.times, structured={"text": said.text})


ECHO = {"echo": scripted(echo)}


class Held:
    """A tool that a test holds: it tells when it has begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self.count = 0
        self.go = asyncio.Event()

    async def run(self, _said: Said, _call: Context) -> Answer:
        """Wait to be let go."""
        self.count += 1
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.ended.set()
        return Answer("done")


@pytest.mark.requirement("tools.call")
async def test_a_call_is_run_told_and_forgotten(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with running_tools(shared_nats, ECHO):
        job = await tool_desk.call("echo", {"text": "ab", "times": 2}, parent="resp_1")
        reading = await tool_desk.until_ended(job.call_id)
        await tool_desk.until_empty()
    assert reading.result.status == "completed"
    assert reading.result.output == "abab"
    assert bytes(reading.result.structured or b"") == b'{"text":"ab"}'
    assert len(reading.fences) == 1
    (finished,) = await tool_desk.finished(job)
    assert finished.parent == "resp_1"
    assert finished.attempts == 1
    assert bytes(finished.arguments or b"") == b'{"text":"ab","times":2}'
    assert b"abab" in bytes(finished.result or b"")


async def test_arguments_may_come_as_a_models_text(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with running_tools(shared_nats, ECHO):
        result = await tool_desk.result("echo", '{"text": "hello"}')
    assert result.output == "hello"


@pytest.mark.requirement("tools.errors")
@pytest.mark.parametrize(
    ("tool", "arguments", "code", "said"),
    [
        ("nothing", {}, "unknown_tool", "there are: echo"),
        ("echo", '{"text": ', "invalid_arguments", "not JSON"),
        ("echo", [1], "invalid_arguments", "JSON object"),
        ("echo", {"text": 1}, "invalid_arguments", "$.text"),
        ("echo", {"times": 10}, "invalid_arguments", "$.times"),
        ("echo", {"loud": True}, "invalid_arguments", "loud"),
    ],
)
async def test_what_a_model_gets_wrong_is_told_to_it(
    shared_nats: NatsServer, tool_desk: ToolDesk, tool: str, arguments: Any, code: str, said: str
) -> None:
    async with running_tools(shared_nats, ECHO):
        result = await tool_desk.result(tool, arguments)
    assert result.status == "failed"
    assert result.error is not None
    assert result.error.code == code
    assert said in result.output


async def test_a_tools_own_fault_fails_its_call_alone(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async def broken(said: Said, call: Context) -> Answer:
        raise ZeroDivisionError("a secret of the tool")

    async with running_tools(shared_nats, ECHO | {"broken": scripted(broken, name="broken")}):
        failed = await tool_desk.result("broken")
        fine = await tool_desk.result("echo", {"text": "x"})
    assert failed.error is not None
    assert failed.error.code == "internal_error"
    assert "secret" not in failed.output
    assert fine.status == "completed"


@pytest.mark.requirement("tools.switch")
async def test_switches_are_heard_while_the_worker_runs(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with running_tools(shared_nats, ECHO):
        await tool_desk.switch("echo", enabled=False)
        off = await tool_desk.result("echo", {"text": "x"})
        await tool_desk.switch("echo", disallowed_keywords=["Bomb"])
        refused = await tool_desk.result("echo", {"text": 'how to "make a bOMB"'})
        allowed = await tool_desk.result("echo", {"text": "flowers"})
        await tool_desk.switch("echo")
    assert off.error is not None
    assert off.error.code == "disabled"
    assert refused.error is not None
    assert refused.error.code == "refused"
    assert allowed.status == "completed"


async def test_a_long_result_is_cut_and_says_so(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async def flood(said: Said, call: Context) -> Answer:
        return Answer("ü\x00" * 400_000, structured={"x": "y" * 300_000})

    async with running_tools(shared_nats, {"flood": scripted(flood, name="flood")}):
        result = await tool_desk.result("flood")
    assert len(msgspec.json.encode(result)) <= 256 * 1024
    assert result.structured is None
    assert "300008 bytes" not in result.output[:1000]
    assert "[Cut: the first" in result.output[-200:]


async def test_progress_reaches_the_frames_and_the_parent(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async def slow(said: Said, call: Context) -> Answer:
        for step in range(100):
            call.progress(step, 100, "still at it")
            await asyncio.sleep(0.005)
        return Answer("done")

    heard = await words_for(tool_desk.observer, "resp_2")
    async with running_tools(shared_nats, {"slow": scripted(slow, name="slow")}):
        job = await tool_desk.call("slow", parent="resp_2")
        reading = await tool_desk.until_ended(job.call_id)
        words = [await asyncio.wait_for(heard.get(), 5)]
        while not words[-1].ended:
            words.append(await asyncio.wait_for(heard.get(), 5))
    assert {word.about for word in words} == {job.call_id}
    assert len(words) == len(reading.progress) + 1
    assert 2 <= len(reading.progress) <= 5
    assert reading.progress[0].total == 100
    assert reading.result.output == "done"


async def test_a_retryable_failure_of_an_idempotent_tool_is_tried_three_times(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    tries: list[float] = []

    async def flaky(said: Said, call: Context) -> Answer:
        tries.append(time.monotonic())
        raise Failed("upstream_error", "It is down.", retryable=True)

    async with running_tools(shared_nats, {"flaky": scripted(flaky, name="flaky")}):
        result = await tool_desk.result("flaky")
        assert len(tries) == 3
        assert tries[1] - tries[0] >= 0.2
    assert result.error is not None
    assert result.error.code == "upstream_error"


async def test_another_tool_is_never_tried_twice(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    tries: list[int] = []

    async def flaky(said: Said, call: Context) -> Answer:
        tries.append(1)
        raise Failed("upstream_error", "It is down.", retryable=True)

    tool = scripted(flaky, name="flaky", idempotent=False)
    async with running_tools(shared_nats, {"flaky": tool}):
        result = await tool_desk.result("flaky")
    assert len(tries) == 1
    assert result.status == "failed"


@pytest.mark.requirement("tools.cancel")
@pytest.mark.parametrize("whom", ["call", "parent"])
async def test_a_cancel_stops_a_call(
    shared_nats: NatsServer, tool_desk: ToolDesk, whom: str
) -> None:
    held = Held()
    async with running_tools(shared_nats, {"held": scripted(held.run, name="held")}):
        job = await tool_desk.call("held", parent="resp_3" + whom)
        await held.begun.wait()
        await tool_desk.cancel(job.call_id if whom == "call" else job.parent)
        reading = await tool_desk.until_ended(job.call_id, 5)
        assert held.ended.is_set()
        await tool_desk.until_empty()
    assert reading.result.status == "cancelled"
    (finished,) = await tool_desk.finished(job)
    assert finished.status == "cancelled"


async def test_a_call_that_was_cancelled_before_is_not_begun(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    job = await tool_desk.call("held", parent="resp_4")
    await tool_desk.cancel("resp_4")
    async with running_tools(shared_nats, {"held": scripted(held.run, name="held")}):
        reading = await tool_desk.until_ended(job.call_id)
    assert reading.result.status == "cancelled"
    assert held.count == 0


async def test_a_call_ends_at_its_tools_time_out(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    async with running_tools(shared_nats, {"held": scripted(held.run, name="held", timeout=0.3)}):
        result = await tool_desk.result("held")
        assert held.ended.is_set()
    assert result.error is not None
    assert result.error.code == "timeout"
    assert "after 0.3 s" in result.output


async def test_a_call_ends_at_its_deadline(shared_nats: NatsServer, tool_desk: ToolDesk) -> None:
    held = Held()
    async with running_tools(shared_nats, {"held": scripted(held.run, name="held")}):
        late = await tool_desk.result("held", deadline=-1.0)
        assert held.count == 0
        cut = await tool_desk.result("held", deadline=0.3)
    assert late.output == "No worker could begin held in time."
    for result in (late, cut):
        assert result.error is not None
        assert result.error.code == "timeout"


@pytest.mark.requirement("tools.call")
async def test_a_call_that_comes_again_after_its_end_changes_nothing(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    held.go.set()
    async with running_tools(
        shared_nats, {"held": scripted(held.run, name="held", idempotent=False)}
    ):
        job = await tool_desk.call("held")
        first = await tool_desk.until_ended(job.call_id)
        await tool_desk.send(job, step=1)
        await tool_desk.until_empty()
        again = await tool_desk.read(job.call_id)
    assert held.count == 1
    assert again.results == first.results
    assert len(await tool_desk.finished(job)) == 1


async def test_a_drained_worker_hands_an_idempotent_call_to_another(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    tools = {"held": scripted(held.run, name="held")}
    async with running_tools(shared_nats, tools, "tools-1", drain_timeout=0.0):
        job = await tool_desk.call("held")
        await held.begun.wait()
    held.go.set()
    async with running_tools(shared_nats, tools, "tools-2"):
        reading = await tool_desk.until_ended(job.call_id)
    assert [fence.worker for fence in reading.fences] == ["tools-1", "tools-2"]
    assert reading.result.status == "completed"
    (finished,) = await tool_desk.finished(job)
    assert finished.attempts == 2


async def test_another_call_that_was_begun_is_never_run_again(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    tools = {"held": scripted(held.run, name="held", idempotent=False)}
    async with running_tools(shared_nats, tools, "tools-1", drain_timeout=0.0):
        job = await tool_desk.call("held")
        await held.begun.wait()
    async with running_tools(shared_nats, tools, "tools-2"):
        reading = await tool_desk.until_ended(job.call_id)
        await tool_desk.until_empty()
    assert held.count == 1
    assert reading.result.error is not None
    assert reading.result.error.code == "unknown_outcome"


async def test_a_call_that_ends_its_workers_is_given_up(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    held = Held()
    tools = {"held": scripted(held.run, name="held")}
    job = await tool_desk.call("held")
    for _ in range(DEATHS):
        held.begun.clear()
        async with running_tools(shared_nats, tools, drain_timeout=0.0):
            await held.begun.wait()
    async with running_tools(shared_nats, tools):
        reading = await tool_desk.until_ended(job.call_id)
        await tool_desk.until_empty()
    assert held.count == DEATHS
    assert reading.result.error is not None
    assert reading.result.error.code == "given_up"
    dead = await tool_desk.observer.last_message(subjects.DEAD, "dead.>")
    assert dead is not None
    assert job.call_id.encode() in dead.data


async def test_a_job_that_nobody_can_read_is_buried(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    async with running_tools(shared_nats, ECHO):
        await tool_desk.bus.store(
            subjects.tool_job("mcp"), b'{"call_id": 1}', msg_id="JOBS:bad:1:0"
        )
        await tool_desk.until_empty()
    dead = await tool_desk.observer.last_message(subjects.DEAD, "dead.jobs.jobs.tools.mcp")
    assert dead is not None
    assert dead.data == b'{"call_id": 1}'


async def test_the_bus_may_be_away_while_a_tool_runs(
    tmp_path: Path,
) -> None:
    held = Held()
    tools = {"held": scripted(held.run, name="held", idempotent=False)}
    with running_nats(tmp_path) as own:
        await migrate(own)
        async with open_tool_desk(own) as desk, running_tools(own, tools):
            job = await desk.call("held")
            await held.begun.wait()
            back = asyncio.Event()
            desk.bus.on_reconnect(back.set)
            own.kill()
            own.start()
            await asyncio.wait_for(back.wait(), 10)
            held.go.set()
            reading = await desk.until_ended(job.call_id)
            await desk.until_empty()
            assert len(await desk.finished(job)) == 1
    assert held.count == 1
    assert reading.result.status == "completed"


@pytest.mark.parametrize(("content", "kept"), [("short", True), ("none", False)])
async def test_the_log_keeps_of_a_call_what_it_is_told_to(
    shared_nats: NatsServer, tool_desk: ToolDesk, content: Any, kept: bool
) -> None:
    async with running_tools(shared_nats, {"echo": scripted(echo)}):
        job = await tool_desk.call("echo", {"text": "s" * 100, "times": 9}, content=content)
        await tool_desk.until_ended(job.call_id)
    (finished,) = await tool_desk.finished(job)
    assert (finished.arguments is not None) == kept
    assert (finished.result is not None) == kept
    assert b"s" * 300 not in bytes(finished.result or b"")


async def test_the_catalogue_says_what_can_be_called(
    shared_nats: NatsServer, tool_desk: ToolDesk
) -> None:
    lame = scripted(echo, name="lame", lacks=lambda _: "it has no legs")
    async with running_tools(shared_nats, {"echo": scripted(echo, aliases=("say",)), "lame": lame}):
        told = {tool.name: tool for tool in await announced(tool_desk)}
        refused = await tool_desk.result("lame")
        aliased = await tool_desk.result("say", {"text": "x"})
    async with running_tools(shared_nats, ECHO):
        left = {tool.name for tool in await announced(tool_desk)}
    assert told["lame"].unavailable == "it has no legs"
    assert told["echo"].unavailable == ""
    schema = msgspec.json.decode(told["echo"].parameters)
    assert schema["type"] == "object"
    assert schema["properties"]["times"]["maximum"] == 9
    assert schema["additionalProperties"] is False
    assert refused.error is not None
    assert refused.error.code == "unavailable"
    assert aliased.output == "x"
    assert left == {"echo"}


async def announced(tool_desk: ToolDesk) -> list[Tool]:
    """The tools that the bucket has."""
    found: dict[str, bytes] = {}

    def on_change(key: str, value: bytes | None, revision: int) -> None:
        if value is not None:
            found[key] = value

    watch = await Bucket(tool_desk.bus, subjects.KV_TOOLS).watch(on_change, prefix="tool")
    await watch.stop()
    return [decode_tool(value) for value in found.values()]

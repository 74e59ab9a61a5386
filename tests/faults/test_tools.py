"""Tools whose worker is killed while they run."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from schemas.tools import CallTool
from tests.support.nats import NatsServer, migrate, running_nats
from tests.support.tools import Reading, ToolDesk, open_tool_desk
from tests.support.tools_process import tools_process
from tests.support.waiting import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats") as nats:
        yield nats


@pytest.fixture
async def desk(server: NatsServer) -> AsyncIterator[ToolDesk]:
    await migrate(server)
    async with open_tool_desk(server) as desk:
        yield desk


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def killed_at_work(server: NatsServer, desk: ToolDesk, tool: str, file: Path) -> CallTool:
    """Call a tool whose worker is killed while it runs."""
    with tools_process(server, "tools-1", file) as first:
        job = await desk.call(tool)
        await until(lambda: len(lines_of(file)) == 1)
        first.kill()
    return job


async def ended_by_another(
    server: NatsServer, desk: ToolDesk, job: CallTool, file: Path
) -> Reading:
    """What is stored of a call once another worker has done what is left of it."""
    with tools_process(server, "tools-2", file):
        reading = await desk.until_ended(job.call_id)
        await desk.until_empty()
    return reading


@pytest.mark.requirement("tools.survival")
async def test_an_idempotent_tool_is_run_again_by_another_worker(
    server: NatsServer, desk: ToolDesk, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    job = await killed_at_work(server, desk, "twice", file)
    file.with_suffix(".go").touch()
    reading = await ended_by_another(server, desk, job, file)
    assert lines_of(file) == ["twice tools-1", "twice tools-2"]
    assert reading.result.output == "tools-2"
    (finished,) = await desk.finished(job)
    assert (finished.status, finished.attempts) == ("completed", 2)


@pytest.mark.requirement("tools.survival")
async def test_any_other_is_never_run_again_and_says_so(
    server: NatsServer, desk: ToolDesk, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    job = await killed_at_work(server, desk, "once", file)
    reading = await ended_by_another(server, desk, job, file)
    assert lines_of(file) == ["once tools-1"]
    assert reading.result.error is not None
    assert reading.result.error.code == "unknown_outcome"
    (finished,) = await desk.finished(job)
    assert finished.status == "failed"


@pytest.mark.requirement("tools.survival")
async def test_a_frozen_worker_that_thaws_changes_nothing_any_more(
    server: NatsServer, desk: ToolDesk, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    with tools_process(server, "tools-1", file) as first:
        job = await desk.call("once")
        await until(lambda: len(lines_of(file)) == 1)
        os.kill(first.pid, signal.SIGSTOP)
        with tools_process(server, "tools-2", file):
            reading = await desk.until_ended(job.call_id)
            file.with_suffix(".go").touch()
            os.kill(first.pid, signal.SIGCONT)
            other = await desk.result("twice")
            await desk.until_empty()
    again = await desk.read(job.call_id)
    assert other.status == "completed"
    assert again.results == reading.results
    assert lines_of(file)[0] == "once tools-1"
    assert "once tools-2" not in lines_of(file)


@pytest.mark.requirement("tools.sandbox")
@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_code_dies_with_its_worker(
    server: NatsServer, desk: ToolDesk, tmp_path: Path
) -> None:
    with tools_process(server, "tools-1", tmp_path / "ran") as first:
        code = "import time; time.sleep(15)"
        job = await desk.call("python_exec", {"code": code}, queue="python_exec")
        await desk.until_begun(job.call_id)
        worker = psutil.Process(first.pid)
        sandboxed: list[psutil.Process] = []
        async with asyncio.timeout(10):
            while not any("/run/code.py" in child.cmdline() for child in sandboxed):
                sandboxed = worker.children(recursive=True)
                await asyncio.sleep(0.02)
        first.kill()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, sandboxed, 5)
    assert not alive
    assert gone


@pytest.mark.requirement("tools.survival")
async def test_a_kill_between_any_two_steps_leaves_one_result(
    server: NatsServer, desk: ToolDesk, tmp_path: Path
) -> None:
    """Workers die at random moments: each call has one result, and `once` ran at most once."""
    file = tmp_path / "ran"
    file.with_suffix(".go").touch()
    jobs = [
        await desk.call(tool, {"text": f"{number:02}"}, deadline=600.0)
        for number in range(60)
        for tool in ("twice", "once")
    ]
    for number in range(6):
        with tools_process(server, f"tools-{number}", file) as process:
            begun = len(lines_of(file))
            deadline = time.monotonic() + 1.0
            while len(lines_of(file)) < begun + 5 and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            process.kill()
    with tools_process(server, "tools-last", file):
        for job in jobs:
            reading = await desk.until_ended(job.call_id)
            assert len(reading.results) == 1
            assert len(await desk.finished(job)) == 1
        await desk.until_empty()
    once = [line for line in lines_of(file) if line.startswith("once")]
    assert len(once) == len(set(once))
    assert len({line for line in lines_of(file) if line.startswith("twice")}) == 60

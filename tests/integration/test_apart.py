"""Work in a process of its own: what it comes to, and that nothing of it is left."""

import asyncio
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tests.support.server import eventually
from workers.runtime.apart import apart, preload
from workers.tools.extraction import Unreadable, extract

preload(__name__)


def double(number: int) -> int:
    return 2 * number


def spin() -> None:
    while True:
        pass


def hoard() -> int:
    return len(b"x" * (2 << 30))


def write(path: str) -> None:
    Path(path).write_text("something")


def tell_and_wait(path: str) -> None:
    os.symlink(str(os.getpid()), path)  # a link has no size: it may be made
    time.sleep(60)


async def test_work_apart_comes_back() -> None:
    assert await apart(5, double, 21) == 42


@pytest.mark.requirement("tools.apart")
@pytest.mark.parametrize("work", [spin, hoard])
async def test_work_that_takes_all_time_or_memory_is_ended(work: object) -> None:
    with pytest.raises(TimeoutError):
        await apart(1, work)  # type: ignore[arg-type]
    assert not multiprocessing.active_children()


@pytest.mark.requirement("tools.apart")
async def test_work_apart_writes_no_files(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await apart(5, write, str(tmp_path / "made"))
    made = tmp_path / "made"
    assert not made.exists() or not made.read_text()


@pytest.mark.requirement("tools.apart")
async def test_work_of_which_nobody_waits_any_more_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    working = asyncio.create_task(apart(30, tell_and_wait, str(told)))
    await asyncio.to_thread(eventually, told.is_symlink)
    pid = int(os.readlink(told))
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("data", [b"", b"no PDF", b"%PDF-1.7\n%%EOF"])
async def test_a_document_that_is_none_is_told_in_a_sentence(data: bytes) -> None:
    with pytest.raises(Unreadable, match=r"^the document can't be read \(\w+\)$"):
        await extract("pdf", data, "https://example.com/x.pdf", "text")


async def test_the_text_of_a_page_is_taken_out() -> None:
    page = b"<html><head><title>Tides</title></head><body><p>The sea rises.</p></body></html>"
    found = await extract("html", page, "https://example.com/", "text")
    assert "The sea rises." in found.text

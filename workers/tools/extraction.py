"""The text of a page or a PDF, taken out in a process of its own, which can be stopped.

What strangers wrote may take a parser for ever, or all memory: here it costs that one process.
"""

import asyncio
import io
import multiprocessing
import resource
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal

Form = Literal["text", "markdown"]

_CPU_SECONDS = 10
_SECONDS = 20.0
_MEMORY = 1 << 30
_MAX_PAGES = 300

# Children are forked from a process that has loaded the parsers: that takes 0.7 s.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["trafilatura", "pypdf"])


@dataclass(frozen=True)
class Extract:
    """What was found in a document."""

    text: str
    title: str = ""


class Unreadable(Exception):
    """The document can't be read; one sentence."""


async def extract(kind: Literal["html", "pdf"], data: bytes, url: str, form: Form) -> Extract:
    """Take the text out. Raises Unreadable."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_work, args=(sender, kind, data, url, form), daemon=True)
    try:
        await asyncio.to_thread(process.start)
        sender.close()
        async with asyncio.timeout(_SECONDS):
            found = await _receive(receiver)
    except (EOFError, OSError, TimeoutError):
        raise Unreadable("the document could not be read within its limits") from None
    finally:
        if process.pid is not None:
            process.kill()
            await asyncio.to_thread(process.join, 5.0)
        receiver.close()
    if isinstance(found, Extract):
        return found
    raise Unreadable(found)


async def _receive(receiver: Connection) -> Extract | str:
    """Wait for the child's word, or for its end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(receiver.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(receiver.fileno())
    found: Extract | str = await asyncio.to_thread(receiver.recv)
    return found


def _work(sender: Connection, kind: str, data: bytes, url: str, form: Form) -> None:
    """The child: limits first."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    read: Callable[[bytes, str, Form], Extract] = _read_html if kind == "html" else _read_pdf
    try:
        sender.send(read(data, url, form))
    except Exception as error:  # whatever a parser meets in a stranger's document
        sender.send(f"the document can't be read ({type(error).__name__})")


def _read_html(data: bytes, url: str, form: Form) -> Extract:
    import trafilatura  # noqa: PLC0415 - in the child only

    title = trafilatura.extract_metadata(data, default_url=url)
    text = trafilatura.extract(
        data,
        url=url,
        output_format="markdown" if form == "markdown" else "txt",
        include_links=form == "markdown",
        include_tables=True,
        include_comments=False,
        favor_recall=True,
    )
    if not text:  # a page without an article: all of its words
        text = trafilatura.html2txt(data)
    return Extract(text or "", (title.title if title is not None else "") or "")


def _read_pdf(data: bytes, url: str, form: Form) -> Extract:  # noqa: ARG001
    from pypdf import PdfReader  # noqa: PLC0415 - in the child only

    reader = PdfReader(io.BytesIO(data))
    pages = [page.extract_text() for page in reader.pages[:_MAX_PAGES]]
    title = reader.metadata.title if reader.metadata is not None else ""
    left_out = len(reader.pages) - len(pages)
    note = f"\n\n[{left_out} more pages were not read.]" if left_out > 0 else ""
    return Extract("\n\n".join(pages) + note, title or "")

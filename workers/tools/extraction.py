"""The text of a page or a PDF, taken out in a process of its own, which can be stopped."""

import io
from dataclasses import dataclass
from typing import Final, Literal

from workers.runtime.apart import apart, preload

Form = Literal["text", "markdown"]

_CPU_SECONDS: Final = 10
_MAX_PAGES: Final = 300

preload(__name__, "trafilatura", "pypdf")


@dataclass(frozen=True)
class Extract:
    """What was found in a document."""

    text: str
    title: str = ""


class Unreadable(Exception):
    """The document can't be read; one sentence."""


async def extract(kind: Literal["html", "pdf"], data: bytes, url: str, form: Form) -> Extract:
    """Take the text out. Raises Unreadable."""
    try:
        found = await apart(_CPU_SECONDS, _read, kind, data, url, form)
    except TimeoutError:
        raise Unreadable("the document could not be read within its limits") from None
    if isinstance(found, Extract):
        return found
    raise Unreadable(found)


def _read(kind: str, data: bytes, url: str, form: Form) -> Extract | str:
    """The text, or why there is none."""
    try:
        return _read_html(data, url, form) if kind == "html" else _read_pdf(data)
    except Exception as error:  # whatever a parser meets in a stranger's document
        return f"the document can't be read ({type(error).__name__})"


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


def _read_pdf(data: bytes) -> Extract:
    from pypdf import PdfReader  # noqa: PLC0415 - in the child only

    reader = PdfReader(io.BytesIO(data))
    pages = [page.extract_text() for page in reader.pages[:_MAX_PAGES]]
    title = reader.metadata.title if reader.metadata is not None else ""
    left_out = len(reader.pages) - len(pages)
    note = f"\n\n[{left_out} more pages were not read.]" if left_out > 0 else ""
    return Extract("\n\n".join(pages) + note, title or "")

"""What a model writes while it writes it: a message, a refusal, its reasoning."""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from schemas.responses.output import Output, Place
from schemas.tools import Artifact, Citation


class Citations(NamedTuple):
    """What the model can point to: what searches have shown it, and files that its code made.

    `[1]` in its text is the first of the `last` ones.
    """

    all: list[Citation]
    last: list[Citation]
    files: list[Artifact]


_MARK: Final = re.compile(r"\[(\d{1,3})\]|https?://[^\s<>()\[\]\"']+")
_ENDS: Final = ".,;:!?"  # of a sentence that a link stands in


class _Way(NamedTuple):
    """How a part is told: the list of the item that it is in, and its events."""

    parts: str = "content"
    place: str = "content_index"
    part: str = "response.content_part"


_SUMMARY: Final = _Way("summary", "summary_index", "response.reasoning_summary_part")
_OTHERS: Final = _Way()
_EVENTS: Final = {"summary_text": "response.reasoning_summary_text"}


class Text:
    """One part of an item: `output_text`, `refusal`, `reasoning_text` or `summary_text`."""

    __slots__ = (
        "_delta",
        "_event",
        "_index",
        "_logprobs",
        "_output",
        "_pieces",
        "_place",
        "_way",
        "kind",
        "where",
    )

    def __init__(self, output: Output, where: Place, kind: str) -> None:
        self.kind = kind
        self.where = where
        self._output = output
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        self._way = _SUMMARY if kind == "summary_text" else _OTHERS
        self._event = _EVENTS.get(kind, f"response.{kind}")
        self._delta = f"{self._event}.delta".encode()
        parts = where.item[self._way.parts]
        self._index = len(parts)
        self._place = b',"item_id":"%b","output_index":%d,"%b":%d' % (
            where.item["id"].encode(),
            where.at,
            self._way.place.encode(),
            self._index,
        )
        part = _to_part(kind, "")
        parts.append(part)
        self._tell(f"{self._way.part}.added", part=part)

    def add(self, piece: str, logprobs: Sequence[Any] = (), encoded: bytes = b"") -> None:
        """Take a piece; `encoded` is the JSON of its log probabilities."""
        self._pieces.append(piece)
        self._logprobs += logprobs
        more = b""
        if self.kind == "output_text":
            more = b',"logprobs":%b' % (encoded or b"[]")
        self._output.events.tell_delta(self._delta, self._place, piece, more)

    def close(self, citations: Citations) -> str:
        """The part is whole; return its text."""
        text = "".join(self._pieces)
        part = self.where.item[self._way.parts][self._index]
        match self.kind:
            case "output_text":
                part |= {"text": text, "logprobs": self._logprobs}
                for number, annotation in enumerate(find_citations(text, citations)):
                    part["annotations"].append(annotation)
                    self._tell(
                        "response.output_text.annotation.added",
                        annotation_index=number,
                        annotation=annotation,
                    )
                self._tell(f"{self._event}.done", text=text, logprobs=self._logprobs)
            case "refusal":
                part["refusal"] = text
                self._tell(f"{self._event}.done", refusal=text)
            case _:
                part["text"] = text
                self._tell(f"{self._event}.done", text=text)
        self._tell(f"{self._way.part}.done", part=part)
        return text

    def _tell(self, event: str, **fields: Any) -> None:
        self._output.tell(self.where, event, **{self._way.place: self._index}, **fields)


def find_citations(text: str, citations: Citations) -> list[dict[str, Any]]:
    """Find where a text points to what the model was shown: by `[n]`, or by the address itself."""
    found = _find_files(text, citations.files)
    if not citations.all:
        return found
    by_url = {cited.url: cited for cited in citations.all if cited.url}
    for match in _MARK.finditer(text):
        if match[1]:
            number = int(match[1])
            cited = citations.last[number - 1] if 0 < number <= len(citations.last) else None
        else:
            cited = by_url.get(match[0]) or by_url.get(match[0].rstrip(_ENDS))
        if cited is not None:
            found.append(_to_annotation(cited, match.start(), match.end()))
    return found


def _find_files(text: str, files: list[Artifact]) -> list[dict[str, Any]]:
    """Find where a text names files, each for the first time."""
    found, places = [], _find_names(text, {made.name for made in files})
    for made in files:
        start = places[made.name]
        if start >= 0:
            told = {"file_id": made.id, "filename": made.name, "container_id": made.container}
            place = {"start_index": start, "end_index": start + len(made.name)}
            found.append({"type": "container_file_citation", **told, **place})
    return found


def _find_names(text: str, names: set[str]) -> dict[str, int]:
    """Where each name begins that is no part of a longer one, as `a.csv` is of `out/a.csv`."""
    places = {}
    for name in sorted(names, key=len, reverse=True):
        places[name] = text.find(name)
        text = text.replace(name, "\0" * len(name))
    return places


def _to_annotation(cited: Citation, start: int, end: int) -> dict[str, Any]:
    if cited.file_id:
        told = {"file_id": cited.file_id, "filename": cited.title, "index": end}
        return {"type": "file_citation", **told}
    told = {"url": cited.url, "title": cited.title}
    return {"type": "url_citation", "start_index": start, "end_index": end, **told}


def _to_part(kind: str, text: str) -> dict[str, Any]:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}

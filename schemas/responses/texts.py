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


class Text:
    """One part of an item, of the kind `output_text`, `refusal` or `reasoning_text`."""

    __slots__ = (
        "_content_index",
        "_delta",
        "_logprobs",
        "_output",
        "_pieces",
        "_place",
        "kind",
        "where",
    )

    def __init__(self, output: Output, where: Place, kind: str) -> None:
        self.kind = kind
        self.where = where
        self._output = output
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []
        content = where.item["content"]
        self._content_index = len(content)
        self._delta = f"response.{kind}.delta".encode()
        self._place = b',"item_id":"%b","output_index":%d,"content_index":%d' % (
            where.item["id"].encode(),
            where.at,
            self._content_index,
        )
        part = _to_part(kind, "")
        content.append(part)
        self._tell("response.content_part.added", part=part)

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
        part = self.where.item["content"][self._content_index]
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
                self._tell("response.output_text.done", text=text, logprobs=self._logprobs)
            case "refusal":
                part["refusal"] = text
                self._tell("response.refusal.done", refusal=text)
            case _:
                part["text"] = text
                self._tell("response.reasoning_text.done", text=text)
        self._tell("response.content_part.done", part=part)
        return text

    def _tell(self, event: str, **fields: Any) -> None:
        self._output.tell(self.where, event, content_index=self._content_index, **fields)


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
    found = []
    for made in files:
        start = text.find(made.name)
        if start >= 0:
            told = {"file_id": made.id, "filename": made.name, "container_id": made.container}
            place = {"start_index": start, "end_index": start + len(made.name)}
            found.append({"type": "container_file_citation", **told, **place})
    return found


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

"""Cutting a text into pieces that can be found and shown one by one."""

import re
from collections.abc import Iterator
from typing import Final

SIZE: Final = 1200  # characters: some paragraphs, of which a model can be shown twenty
OVERLAP: Final = 150  # what is said across a cut is whole in one of the pieces

# Where a text is cut rather: after a paragraph, a line, a sentence, a word.
_ENDS: Final = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?。]\s", r"\s"))


def split(text: str) -> list[str]:
    """Cut a text; together the pieces have all of it."""
    return [piece for piece in _pieces(text.replace("\0", "�").strip()) if piece.strip()]


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > SIZE:
        end = _find_end(text, start)
        yield text[start:end].strip()
        start = _find_start(text, start, end)
    yield text[start:].strip()


def _find_end(text: str, start: int) -> int:
    """The last good place for a cut in the second half of a piece."""
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(text, start + SIZE // 2, start + SIZE)]
        if ends:
            return ends[-1]
    return start + SIZE


def _find_start(text: str, start: int, end: int) -> int:
    """Where the next piece begins: at a word, somewhat before the cut."""
    word = _ENDS[-1].search(text, max(start + 1, end - OVERLAP), end)
    return word.end() if word is not None else end

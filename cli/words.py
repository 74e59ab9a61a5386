"""Two texts as one, with what is gone and what is new in it, word by word."""

import difflib
import re
from typing import Literal, NamedTuple

from schemas.transcripts import MOST_PAIRS, pairs

_WORD = re.compile(r"\s*\S+|\s+")  # a word is never taken apart from its spaces: fewer pieces
_LINE = re.compile(r".*\n|.+")
_AKIN = 0.25  # of the pieces are the same; below it, those are "the" and "a", and tell nothing
_KEPT = 60  # characters of what is the same that are shown beside a change
_RESET, _GONE, _NEW, _DIM = "\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[2m"


class Change(NamedTuple):
    """A stretch of the text: in both, only in the first, or only in the second."""

    what: Literal["same", "gone", "new"]
    text: str


def changes(before: str, after: str) -> list[Change]:
    """Find how one text becomes another: by words, by lines where they are too many, or whole."""
    ones, others = _pieces(before, after)
    found: list[Change] = []
    matcher = difflib.SequenceMatcher(None, ones, others, autojunk=False)
    if matcher.ratio() < _AKIN:
        ones, others = [before], [after]
        matcher.set_seqs(ones, others)
    for what, start, end, other_start, other_end in matcher.get_opcodes():
        gone, new = "".join(ones[start:end]), "".join(others[other_start:other_end])
        if what == "equal":
            found.append(Change("same", gone))
            continue
        found += [Change("gone", gone)] if gone else []
        found += [Change("new", new)] if new else []
    return found


def to_text(found: list[Change], *, colour: bool) -> str:
    """Write changes for a person: in colour, or as `[-gone-]{+new+}`; long equal parts are cut."""
    last = len(found) - 1
    return "".join(
        _same(change.text, begins=not number, ends=number == last, colour=colour)
        if change.what == "same"
        else _changed(change, colour)
        for number, change in enumerate(found)
    )


def _pieces(before: str, after: str) -> tuple[list[str], list[str]]:
    for pattern in (_WORD, _LINE):
        ones, others = (pattern.findall(text) for text in (before, after))
        if pairs(ones, others) <= MOST_PAIRS:
            return ones, others
    return [before], [after]


def _changed(change: Change, colour: bool) -> str:
    if colour:
        return f"{_GONE if change.what == 'gone' else _NEW}{change.text}{_RESET}"
    return f"[-{change.text}-]" if change.what == "gone" else f"{{+{change.text}+}}"


def _same(text: str, *, begins: bool, ends: bool, colour: bool) -> str:
    """What is the same, with its middle cut out; at the text's ends there is nothing to border."""
    head, tail = 0 if begins else _KEPT, 0 if ends else _KEPT
    left_out = len(text) - head - tail
    if left_out <= _KEPT:
        return text
    note = f" … {left_out:,} characters … "
    return text[:head] + (f"{_DIM}{note}{_RESET}" if colour else note) + text[len(text) - tail :]

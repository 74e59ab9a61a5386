"""Titles that conversations get by themselves, from what their users say."""

import re
from typing import Final

MAX_TITLE: Final = 60  # characters: what a list of conversations shows of one
MAX_WORDS: Final = 6  # of a title that a model makes
COUNTED: Final = 1000  # messages of the user: beyond them a title stays
_EVERY: Final = 5  # messages of the user, after which the subject may be another

_LINK: Final = re.compile(r"!?\[([^\]\n]*)\]\([^)\s]*\)")
_URL: Final = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", re.IGNORECASE)
_EMAIL: Final = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")
_MARKS: Final = re.compile(r"[`*_#>|~<\[\]{}()\\\ufffd]+")
_THOUGHTS: Final = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_SPACES: Final = re.compile(r"\s+")


def is_due(before: int, after: int) -> bool:
    """Tell whether a title is made when a user's messages become so many: first and every fifth."""
    return after > before and (not before or before // _EVERY != after // _EVERY)


def to_title(text: str) -> str | None:
    """The first line that says something, without addresses and marks, cut at a word's end."""
    for line in text[:10_000].splitlines():
        title = _SPACES.sub(" ", _clean(line)).strip(" .,;:-")
        if any(char.isalnum() for char in title):
            return _cut(title)
    return None


def to_short_title(answer: str) -> str | None:
    """What a model answered as a title, cut after the words that were asked for."""
    title = to_title(_THOUGHTS.sub("", answer))
    if title is None:
        return None
    words = title.strip("\"'“”„«»").removeprefix("Title:").split()
    return " ".join(words[:MAX_WORDS]).strip("\"'“”„«» .,;:-") or None


def _clean(line: str) -> str:
    line = _LINK.sub(r"\1", line)
    for pattern in (_URL, _EMAIL, _MARKS):
        line = pattern.sub(" ", line)
    return "".join([char if char.isprintable() else " " for char in line])


def _cut(title: str) -> str:
    if len(title) <= MAX_TITLE:
        return title
    kept = title[:MAX_TITLE]  # one more than fits beside the dots: a word may end right there
    head, space, _ = kept.rpartition(" ")
    return (head if space else kept[:-1]).rstrip(" .,;:-") + "…"

"""What the simulated model has to say, and what counts as a token of it."""

import re
from itertools import chain
from random import Random

_TOKEN = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+")

_SUBJECTS = (
    "A small queue", "The old lighthouse", "Every message", "A patient gardener",
    "The night train", "One careful worker", "The river", "A quiet library",
    "The morning market", "Each new idea", "The harbour master", "A good question",
    "The mountain path", "An honest answer", "The second reader", "A warm kitchen",
)  # fmt: skip
_VERBS = (
    "keeps", "follows", "remembers", "carries", "finds", "repairs", "watches", "shares",
    "counts", "begins", "crosses", "lights", "measures", "opens", "teaches", "waits for",
)  # fmt: skip
_OBJECTS = (
    "its own pace", "the long way home", "a simple rule", "the first light",
    "a story worth telling", "the work of many hands", "a map of the coast",
    "the smallest detail", "a letter from the north", "the sound of rain",
    "three good reasons", "the last open door", "a garden of stones",
    "what others leave behind", "the shape of the day", "a promise made early",
)  # fmt: skip
_ENDINGS = (
    ".", " before noon.", " without hurry.", ", and nobody minds.", " in the end.",
    " once more.", ", as it should be.", " when the wind turns.",
)  # fmt: skip


def tokenise(text: str) -> list[str]:
    """Cut a text into tokens; joined, they are the text."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """How many tokens a text has."""
    return sum(1 for _ in _TOKEN.finditer(text))


def _tokenise_all(*parts: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tokenise(part)) for part in parts)


# Tokens ready-made: a long answer costs about 0.2 us a token.
_BEGINNINGS = _tokenise_all(
    *(f" {subject} {verb}" for subject in _SUBJECTS for verb in _VERBS),
)
_MIDDLES = _tokenise_all(*(f" {thing}" for thing in _OBJECTS))
_ENDS = _tokenise_all(*_ENDINGS)


def compose(random: Random, tokens: int | None = None) -> list[str]:
    """Compose a text of exactly so many tokens, or of a few sentences."""
    choose = random.choice
    if tokens is None:
        parts = [_sentence(random) for _ in range(random.randint(3, 6))]
        text = list(chain.from_iterable(parts))
    else:
        text = []
        while len(text) < tokens:
            text += choose(_BEGINNINGS)
            text += choose(_MIDDLES)
            text += choose(_ENDS)
        del text[tokens:]
    if text:
        text[0] = text[0].lstrip()
    return text


def word(random: Random) -> str:
    """One word, for where a text must be short."""
    return random.choice(_OBJECTS).rpartition(" ")[2]


def _sentence(random: Random) -> tuple[str, ...]:
    return random.choice(_BEGINNINGS) + random.choice(_MIDDLES) + random.choice(_ENDS)

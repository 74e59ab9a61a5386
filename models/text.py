"""The training text: conversations made from `text/`, without end and the same for a seed."""

import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models import tools
from models.tools import Message, Tool

FOLDER = Path(__file__).parent / "text"
TOPIC_FILES = (
    "about",
    "start",
    "providers",
    "streams",
    "operations",
    "inside",
    "smalltalk",
)
TEMPLATE_LIMIT = 400  # questions made of one line of a file at most
_CHOICE = re.compile(r"\(([^()]*)\)|\{(\w+)\}")
_QUESTION = re.compile(
    r"^(what|which|who|where|when|why|how|is|are|do|does|did|can|could|will|would|should|may|must)\b",
    re.IGNORECASE,
)
_BEFORE = ("please ", "hi, ", "hello, ", "hey, ", "ok, ", "and ", "so ", "jan, ", "hello! ")
_AFTER = (" please", ", please", " here", " in Jan Server", " with jan", " then", " now")


@dataclass(frozen=True)
class Intent:
    """One thing to know: questions that ask for it, some kept for the test, and the answer."""

    id: str
    topic: str
    facts: tuple[str, ...]
    ask: tuple[str, ...]
    held: tuple[str, ...]
    answer: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Conversation:
    """Messages in OpenAI's form, the last one the assistant's, and the tools on offer."""

    messages: list[Message]
    tools: list[Tool]


def load(name: str) -> Any:
    """Read one file of `text/`."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def normal(question: str) -> str:
    """A question's words, to find it among others."""
    return " ".join(re.findall(r"\w+", question.lower()))


def expand(template: str, phrases: dict[str, list[str]], limit: int) -> list[str]:
    """All questions that a line of a file stands for, or `limit` of them, evenly chosen."""
    parts: list[list[str]] = []
    end = 0
    for match in _CHOICE.finditer(template):
        parts.append([template[end : match.start()]])
        if match[1] is not None:
            parts.append(match[1].split("|"))
        else:
            parts.append(phrases.get(match[2], [match[0]]))
        end = match.end()
    parts.append([template[end:]])
    made = [" ".join("".join(chosen).split()) for chosen in itertools.product(*parts)]
    step = max(1, len(made) / limit)
    return [made[int(index * step)] for index in range(min(limit, len(made)))]


def load_intents() -> list[Intent]:
    """All that jan-tiny knows, without the questions that are kept for the test."""
    phrases = load("phrases")
    entries = [entry for name in TOPIC_FILES for entry in load(name)]
    held = {normal(question) for entry in entries for question in entry["held"]}
    intents = []
    for entry in entries:
        made = [q for line in entry["ask"] for q in expand(line, phrases, TEMPLATE_LIMIT)]
        intents.append(
            Intent(
                id=entry["id"],
                topic=entry["topic"],
                facts=tuple(map(str, entry["facts"])),
                ask=tuple(dict.fromkeys(q for q in made if normal(q) not in held)),
                held=tuple(entry["held"]),
                answer=tuple(answer.strip() for answer in entry["answer"]),
                weight=entry.get("weight", 1),
            )
        )
    return intents


class Writer:
    """Writes conversations, without end; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311  # text, no secrets
        self._intents = load_intents()
        self._weights = [intent.weight for intent in self._intents]
        self._lines = {
            intent.id: [list(group) for group in _by_line(intent.ask)] for intent in self._intents
        }
        self._beyond = load("beyond")
        self._beyond_held = {normal(question) for question in self._beyond["held"]}
        self._systems = load("system")
        self._toolbox = tools.Toolbox(load("tools"), self._rng)

    def conversations(self) -> Iterator[Conversation]:
        """Write conversations for ever."""
        while True:
            yield self._with_tools() if self._rng.random() < 0.42 else self._plain()

    def _plain(self) -> Conversation:
        turns = self._rng.choices((1, 2, 3, 5), (60, 22, 13, 5))[0]
        messages = self._system()
        for _ in range(turns):
            messages += self._turn()
        return Conversation(messages, [])

    def _with_tools(self) -> Conversation:
        offer = self._toolbox.offer()
        messages = self._system()
        for _ in range(self._rng.choices((1, 2, 3), (75, 20, 5))[0]):
            kind = self._rng.random()
            if kind < 0.83:
                messages += self._toolbox.turn(offer, self._say)
            else:
                messages += self._turn()
        return Conversation(messages, offer.tools)

    def _system(self) -> list[Message]:
        text = self._rng.choice(self._systems)
        return [{"role": "system", "content": text}] if text else []

    def _turn(self) -> list[Message]:
        if self._rng.random() < 0.22:
            question, answer = self._beyond_question(), self._rng.choice(self._beyond["answer"])
        else:
            intent = self._rng.choices(self._intents, self._weights)[0]
            # A line first, then a question of it: a line with many variants is not asked more.
            question = self._rng.choice(self._rng.choice(self._lines[intent.id]))
            answer = self._rng.choice(intent.answer)
        return [
            {"role": "user", "content": self._say(question)},
            {"role": "assistant", "content": answer.strip()},
        ]

    def _beyond_question(self) -> str:
        while True:
            line = self._rng.choice(self._beyond["ask"])
            question = re.sub(r"\{(\w+)\}", lambda match: self._word(match[1]), line)
            if normal(question) not in self._beyond_held:
                return question

    def _word(self, kind: str) -> str:
        if kind == "number":
            return str(self._rng.randint(0, 10 ** self._rng.randint(1, 3)))
        if kind == "word" or (kind in ("thing", "place", "person") and self._rng.random() < 0.25):
            return self._toolbox.made_up()
        return str(self._rng.choice(self._beyond["words"][kind]))

    def _say(self, question: str, *, exact: bool = False) -> str:
        """Write a question as people do. `exact`: its words are arguments and stay as they are."""
        rng = self._rng
        is_question = bool(_QUESTION.match(question))
        if rng.random() < 0.08:
            question = rng.choice(_BEFORE) + question
        if not exact and len(question) > 12:
            if rng.random() < 0.06:
                question += rng.choice(_AFTER)
            if rng.random() < 0.1:
                question = _typo(question, rng)
        case = rng.random()
        if case < 0.55:
            question = question[:1].upper() + question[1:]
        elif case < 0.75 and not exact:
            question = question.lower()
        elif case < 0.77 and not exact:
            question = question.upper()
        if is_question:
            return question + rng.choices(("?", "", ".", "??", " ?"), (70, 22, 3, 2, 3))[0]
        return question + rng.choices(("", ".", "!", "?"), (50, 28, 14, 8))[0]


def _by_line(questions: tuple[str, ...]) -> list[list[str]]:
    """Group questions that begin and end alike, as a line's variants do."""
    groups: dict[str, list[str]] = {}
    for question in questions:
        groups.setdefault(" ".join(question.split()[-2:]), []).append(question)
    return list(groups.values())


def _typo(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text) - 2)
    match rng.randrange(3):
        case 0:
            return text[:at] + text[at + 1 :]
        case 1:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        case _:
            return text[:at] + text[at] + text[at:]


def digest() -> list[str]:
    """Plain prose about the server, a paragraph each, for completions without a chat."""
    return (FOLDER / "digest.md").read_text(encoding="utf-8").strip().split("\n\n")


def to_json(value: object) -> str:
    """JSON as chat templates write it."""
    return json.dumps(value, ensure_ascii=False)

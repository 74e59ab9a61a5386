"""Cues: lines of a last user message that tell the simulated model how to behave in a test.

!fail STATUS [AFTER]    fail as an upstream with this status would, after so many tokens
!stall [AFTER]          go silent
!die [AFTER]            end the worker's process, as a crash would
!tool NAME [{...}]      call this tool; without arguments, ones that fit its schema
!rounds N               call the tools again, until there were N rounds of results (1)
!ttft MS, !pace MS      milliseconds to the first token, and from each to the next
!tokens N               the answer's length
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from schemas.errors import UpstreamRejected


@dataclass(frozen=True, slots=True)
class Cues:
    """What the cues of a message ask for; numbers of tokens and milliseconds."""

    fail: tuple[int, int] | None = None  # the status, and after how many tokens
    stall: int | None = None
    die: int | None = None
    tools: tuple[tuple[str, str | None], ...] = ()
    rounds: int = 1
    ttft: float | None = None
    pace: float | None = None
    tokens: int | None = None

    def turns(self) -> list[int]:
        """The tokens before which something happens, in order."""
        turns = (self.fail[1] if self.fail else None, self.stall, self.die)
        return sorted(turn for turn in turns if turn is not None)


def read_cues(text: str) -> Cues:
    """Find the cues in a message; lines that are none are text."""
    cues = Cues()
    if "!" not in text:
        return cues
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name not in _CUES:
            continue
        try:
            cues = _CUES[name](cues, rest.strip())
        except (ValueError, IndexError):  # msgspec's errors are ValueErrors
            raise UpstreamRejected(f"the cue {line.strip()[:80]!r} is wrong") from None
    return cues


def _fail(cues: Cues, rest: str) -> Cues:
    status, after = (int(word) for word in (*rest.split(), "0")[:2])
    if not 400 <= status <= 599:
        raise ValueError(status)
    return replace(cues, fail=(status, after))


def _tool(cues: Cues, rest: str) -> Cues:
    name, _, arguments = rest.partition(" ")
    if not name:
        raise ValueError(rest)
    if arguments:
        msgspec.json.decode(arguments)
    return replace(cues, tools=(*cues.tools, (name, arguments or None)))


def _count(rest: str) -> int:
    number = int(rest or 0)
    if not 0 <= number <= 1_000_000:
        raise ValueError(number)
    return number


_CUES: Mapping[str, Callable[[Cues, str], Cues]] = MappingProxyType(
    {
        "!fail": _fail,
        "!tool": _tool,
        "!stall": lambda cues, rest: replace(cues, stall=_count(rest)),
        "!die": lambda cues, rest: replace(cues, die=_count(rest)),
        "!rounds": lambda cues, rest: replace(cues, rounds=_count(rest)),
        "!ttft": lambda cues, rest: replace(cues, ttft=float(rest)),
        "!pace": lambda cues, rest: replace(cues, pace=float(rest)),
        "!tokens": lambda cues, rest: replace(cues, tokens=_count(rest)),
    }
)

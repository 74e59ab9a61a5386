"""`jan replay --many`: which runs, and what came of each."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from bus import Bus
from cli.comparison import error_of, paint
from cli.exits import Exit
from cli.run_reader import ask
from cli.timeline import printable, show_time
from schemas.api.replays import Replay
from schemas.errors import JanError
from schemas.queries.runs import AskRuns, RunList
from schemas.transcripts import Transcript

_PAGE = 100
_WIDTHS = (30, 12, 17, 21)
_GREEN, _RED = "\x1b[32m", "\x1b[31m"

Result = Literal["same", "different", "failed", "not replayed"]
Pair = tuple[float | None, float | None]


@dataclass(frozen=True)
class Filter:
    """Which runs are replayed; None lets all."""

    since: float | None = None
    model: str | None = None
    principal: str | None = None
    status: str | None = None
    limit: int = _PAGE

    async def find(self, bus: Bus) -> list[str]:
        """Ask for their ids, the oldest first. Raises JanError."""
        found: list[str] = []
        while len(found) < self.limit:
            question = AskRuns(
                principal=self.principal,
                since=self.since,
                model=self.model,
                status=self.status,
                after_id=found[-1] if found else None,
                limit=min(_PAGE, self.limit - len(found)),
                order="asc",
            )
            page = await ask(bus, "runs", "list", question, RunList)
            found += [run.run_id for run in page.runs]
            if not page.has_more or not page.runs:
                break
        return found


class Repetition(msgspec.Struct, frozen=True):
    """What came of one run; pairs are the original's and the replay's."""

    run_id: str
    result: Result
    replay_id: str | None = None
    tokens: Pair = (None, None)
    seconds: Pair = (None, None)
    error: str | None = None


class Totals(msgspec.Struct, frozen=True):
    """All of them together; tokens and seconds of runs for which both are known."""

    runs: int
    same: int
    different: int
    failed: int
    not_replayed: int
    tokens: tuple[float, float]
    seconds: tuple[float, float]


class Repeats:
    """Replays runs, some at a time, and says of each what came of it."""

    def __init__(
        self,
        replay: Callable[[str], Awaitable[Replay]],
        concurrency: int,
        show: Callable[[str], None],
        *,
        colour: bool,
    ) -> None:
        self._replay = replay
        self._free = asyncio.Semaphore(concurrency)
        self._show = show
        self._colour = colour
        self._done: list[Repetition] = []

    async def run(self, run_ids: Sequence[str]) -> list[Repetition]:
        """Replay them all; returns what came of each, in the order in which they ended."""
        if not run_ids:
            self._show("no run is like that")
            return []
        self._show(_line("run", "result", "tokens", "seconds", "error"))
        async with asyncio.TaskGroup() as tasks:
            for run_id in run_ids:
                tasks.create_task(self._one(run_id))
        for line in self._last_lines():
            self._show(line)
        return self._done

    def totals(self) -> Totals:
        """Sum up."""
        results = [one.result for one in self._done]
        return Totals(
            runs=len(results),
            same=results.count("same"),
            different=results.count("different"),
            failed=results.count("failed"),
            not_replayed=results.count("not replayed"),
            tokens=_sums(one.tokens for one in self._done),
            seconds=_sums(one.seconds for one in self._done),
        )

    async def _one(self, run_id: str) -> None:
        async with self._free:
            try:
                done = to_repetition(await self._replay(run_id))
            except (JanError, Exit) as error:
                why = error.message if isinstance(error, JanError) else str(error)
                done = Repetition(run_id, "not replayed", error=why)
        self._done.append(done)
        line = _line(
            done.run_id,
            done.result,
            _arrow(*(_count(tokens) for tokens in done.tokens)),
            _arrow(*(_time(seconds) for seconds in done.seconds)),
            done.error or "",
        )
        self._show(paint(line, _GREEN if done.result == "same" else _RED, self._colour))

    def _last_lines(self) -> list[str]:
        told = self.totals()
        counts = {
            "same": told.same,
            "different": told.different,
            "failed": told.failed,
            "not replayed": told.not_replayed,
        }
        words = [f"{count} {name}" for name, count in counts.items() if count]
        runs = f"{told.runs} run" if told.runs == 1 else f"{told.runs} runs"
        tokens = _arrow(*(f"{count:,.0f}" for count in told.tokens))
        seconds = _arrow(*(show_time(took) for took in told.seconds))
        return ["", ": ".join([runs, ", ".join(words)]), f"tokens {tokens} · time {seconds}"]


def to_repetition(replay: Replay) -> Repetition:
    """Sum a report up."""
    original, again = replay.original, replay.replay
    assert isinstance(original, Transcript)
    assert isinstance(again, Transcript)
    result: Result = "same" if replay.same is True else "different"
    if result == "different" and again.status != "completed":
        result = "failed"
    return Repetition(
        run_id=original.run_id,
        result=result,
        replay_id=again.run_id,
        tokens=(original.usage.completion_tokens, again.usage.completion_tokens),
        seconds=(original.timing.total, again.timing.total),
        error=error_of(again) if again.error is not None else original.missing or again.missing,
    )


def _sums(pairs: Iterable[Pair]) -> tuple[float, float]:
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    return sum(one for one, _ in known), sum(other for _, other in known)


def _line(*cells: str) -> str:
    *first, last = cells
    padded = [f"{cell:<{width}}" for cell, width in zip(first, _WIDTHS, strict=True)]
    return "  ".join([*padded, printable(last)]).rstrip()


def _arrow(one: str, other: str) -> str:
    return f"{one} → {other}"


def _count(tokens: float | None) -> str:
    return "-" if tokens is None else f"{tokens:,.0f}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else show_time(seconds)

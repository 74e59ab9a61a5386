"""A model that needs no weights: the engine of tests, load tests and first impressions."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import ClassVar, NoReturn, TypeVar

import msgspec

from schemas.errors import UpstreamError, UpstreamTimeout
from schemas.providers import Provider, SimulatedProvider
from workers.inference.engines.contract import BACKLOG_LIMIT, Generation, Outcome, Sink, Tell
from workers.inference.engines.faults import Redactor, to_error
from workers.inference.engines.simulation.answers import Answer, answer_chat, answer_completion
from workers.inference.engines.simulation.chunks import Chunks, to_body, to_steps
from workers.inference.engines.simulation.cues import Cues, read_cues
from workers.inference.engines.simulation.vectors import embed, last_text

_BATCH = 16  # steps sent in one turn of the loop when there is no pace
_LARGE = 64 * 1024  # bytes of a request that is read off the loop

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class SimulatedEngine:
    """Answers from a seed and the prompt, at a pace, and obeys cues where it may."""

    kind: ClassVar[str] = "simulated"

    def __init__(self, provider: Provider) -> None:
        assert isinstance(provider, SimulatedProvider)
        self.can_continue = True
        self._options = provider.options

    async def open(self, tell: Tell) -> None:
        """There is nothing to load."""

    def slots(self) -> int | None:
        """Any number."""
        return None

    async def generate(self, job: Generation, sink: Sink) -> Outcome:
        """Stream an answer; what an earlier attempt has sent is passed over."""
        answer = await self._answer(job)
        steps = enumerate(to_steps(job, answer))
        sent = job.captured.chunks if job.captured else []
        position, chunks = _pass_over(steps, sent)
        pacer = self._pacer(answer.cues, job.deadline, position, resumes=bool(sent))
        while chunks:
            await pacer.reach(position, sink.drain)
            together = islice(steps, pacer.count_more(position))
            sink.send(list(chain(chunks, *(more for _, more in together))))
            if sink.backlog() > BACKLOG_LIMIT:
                await sink.drain()
            position, chunks = next(steps, (0, []))
        return _outcome(answer)

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Answer in one piece, after the time that a stream would take."""
        if job.kind == "embedding":
            return await self._embed(job)
        if job.kind == "count":
            tokens = (await self._answer(job)).prompt_tokens
            return _encode({"input_tokens": tokens}), Outcome()
        answer = await self._answer(job)
        pacer = self._pacer(answer.cues, job.deadline)
        await pacer.play(max(choice.count() for choice in answer.choices))
        return to_body(job, answer), _outcome(answer)

    async def check(self) -> None:
        """It can always be used."""

    async def close(self) -> None:
        """It holds nothing."""

    async def _answer(self, job: Generation) -> Answer:
        options = self._options
        work = answer_completion if job.kind == "completion" else answer_chat
        return await _off_the_loop_if_large(
            job, lambda: work(job.body, options.seed, options.tokens, options.cues)
        )

    async def _embed(self, job: Generation) -> tuple[bytes, Outcome]:
        cues = read_cues(last_text(job.body)) if self._options.cues else Cues()
        await self._pacer(cues, job.deadline).reach(0)
        body, usage = await _off_the_loop_if_large(
            job, lambda: embed(job.body, job.model, self._options.seed)
        )
        return body, Outcome(usage)

    def _pacer(
        self, cues: Cues, deadline: float, first: int = 0, *, resumes: bool = False
    ) -> "_Pacer":
        options = self._options
        ttft = options.ttft_ms if cues.ttft is None else cues.ttft
        pace = options.token_ms if cues.pace is None else cues.pace
        if resumes and cues.die is not None and cues.die <= first:
            cues = replace(cues, die=None)  # it has died here before
        return _Pacer(
            cues=cues,
            turns=cues.turns(),
            deadline=deadline,
            first=first,
            begin=asyncio.get_running_loop().time() + ttft / 1000,
            pace=pace / 1000,
        )


@dataclass(slots=True)
class _Pacer:
    """Keeps a schedule that is fixed at the start: lateness at one token moves no other.

    `first` is the token that is due at `begin`, in the loop's time; `pace` in seconds. `turns`:
    the tokens before which a cue wants something.
    """

    cues: Cues
    turns: list[int]
    deadline: float
    first: int
    begin: float
    pace: float

    def due(self, position: int) -> float:
        """When the token at `position` is due."""
        return self.begin + (position - self.first) * self.pace

    async def reach(
        self, position: int, drain: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Wait until the token at `position` is due; obey the cues that come before it."""
        if self.turns and position >= self.turns[0]:
            await self._obey(position, drain)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self.due(position) - now))

    def count_more(self, position: int) -> int:
        """How many tokens after the one at `position` may go with it."""
        if self.pace:
            late = asyncio.get_running_loop().time() - self.due(position)
            more = int(max(0.0, late) / self.pace)
        else:
            more = 0 if position == self.first else _BATCH - 1
        if self.turns:
            more = min(more, self.turns[0] - position - 1)
        return max(0, more)

    async def play(self, last: int) -> None:
        """Let the time of a whole answer pass, and obey its cues."""
        for turn in self.turns:
            if turn < last:
                await self.reach(turn)
        await self.reach(last)

    async def _obey(self, position: int, drain: Callable[[], Awaitable[None]] | None) -> None:
        cues = self.cues
        if cues.fail is not None and position >= cues.fail[1]:
            status = cues.fail[0]
            body = _encode({"error": {"message": f"a simulated failure ({status})"}})
            raise to_error(status, {b"retry-after": b"1"}, body, Redactor(()))
        if cues.die is not None and position >= cues.die:
            if drain is not None:
                await drain()  # what was sent before is not lost
            os.kill(os.getpid(), signal.SIGKILL)
        if cues.stall is not None and position >= cues.stall:
            await self._stall()

    async def _stall(self) -> NoReturn:
        await asyncio.sleep(max(0.0, self.deadline - time.time()))
        raise UpstreamTimeout("a simulated silence lasted to the run's deadline")


async def _off_the_loop_if_large(job: Generation, work: Callable[[], T]) -> T:
    if sum(len(bytes(value)) for value in job.body.values()) > _LARGE:
        return await asyncio.to_thread(work)
    return work()


def _pass_over(steps: Iterator[tuple[int, Chunks]], sent: list[bytes]) -> tuple[int, Chunks]:
    """Go to the first chunk that was not sent: its position, and what is left of its step."""
    count = 0
    for position, chunks in steps:
        known = sent[count : count + len(chunks)]
        if chunks[: len(known)] != known:
            raise UpstreamError("this answer was begun by another model and can't be continued")
        count += len(known)
        if len(known) < len(chunks):
            return position, chunks[len(known) :]
    return 0, []


def _outcome(answer: Answer) -> Outcome:
    return Outcome(_encode(answer.usage()), answer.choices[0].finish_reason)

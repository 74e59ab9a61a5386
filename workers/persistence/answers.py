"""Questions about stored things, answered from the database and the log."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus
from schemas import subjects
from schemas.errors import InternalError, InvalidRequest, JanError, NotFound, Unavailable
from schemas.events import RunAccepted, RunFinished, decode_run_accepted, decode_run_finished
from schemas.queries import Ask, encode_answer, encode_failure
from schemas.queries.completions import AskCompletion, AskCompletions
from schemas.queries.conversations import (
    AskBranch,
    AskContext,
    AskConversation,
    AskConversations,
    AskExport,
    AskItem,
    AskItems,
)
from schemas.queries.entities import AskEntity
from schemas.queries.files import AskSearch
from schemas.queries.projects import AskProject, AskProjects
from schemas.queries.prompts import AskPrompt, AskPrompts, AskPromptVersions, AskRendered
from schemas.queries.responses import AskResponse, AskResponseContext, AskResponseInput
from schemas.queries.runs import AskRun, AskRunEvents, AskRuns
from schemas.queries.settings import AskSettings
from schemas.queries.shares import AskPublicShare, AskShares
from schemas.queries.usage import AskUsage
from workers.persistence import positions
from workers.persistence.database import Database, describe, is_poison, is_too_slow, is_transient
from workers.persistence.queries import (
    branches,
    completions,
    conversations,
    entities,
    exports,
    files,
    projects,
    prompts,
    responses,
    runs,
    settings,
    shares,
    turns,
    usage,
)

logger = structlog.get_logger()

_SECONDS = 3.0
_PATIENCE = 2.0  # seconds that an answer waits for what the asker has written
_LOOK_AGAIN = 0.02
_KNOWN_SECONDS = 1.0
_LEFT_ALONE = 5.0  # seconds that a replica which did not answer is not asked


Read = Callable[[AsyncConnection, Any], Awaitable[msgspec.Struct | bytes]]


class Question(NamedTuple):
    """What is asked, and what answers: a struct, or JSON that is ready."""

    kind: type[Ask]
    read: Read


def create_questions(bus: Bus) -> dict[str, Question]:
    """List everything that can be asked, by `<noun>.<verb>`."""

    async def read_finished(seq: int) -> RunFinished | None:
        stored = await bus.message_at(subjects.EVENTS, seq)
        return decode_run_finished(stored.data) if stored is not None else None

    async def read_fact(seq: int) -> bytes | None:
        stored = await bus.message_at(subjects.EVENTS, seq)
        return stored.data if stored is not None else None

    async def get_events(connection: AsyncConnection, ask: AskRunEvents) -> msgspec.Struct:
        return await runs.get_events(connection, ask, read_fact)

    async def read_accepted(seq: int) -> RunAccepted | None:
        stored = await bus.message_at(subjects.EVENTS, seq)
        return decode_run_accepted(stored.data) if stored is not None else None

    async def get_command(connection: AsyncConnection, ask: AskRun) -> msgspec.Struct:
        return await runs.get_command(connection, ask, read_accepted, read_finished)

    async def get_result(connection: AsyncConnection, ask: AskRun) -> msgspec.Struct:
        return await runs.get_result(connection, ask, read_finished)

    return {
        "runs.get": Question(AskRun, runs.get_run),
        "runs.list": Question(AskRuns, runs.list_runs),
        "runs.events": Question(AskRunEvents, get_events),
        "entities.events": Question(AskEntity, entities.get_events),
        "runs.result": Question(AskRun, get_result),
        "runs.command": Question(AskRun, get_command),
        "conversations.get": Question(AskConversation, conversations.get_conversation),
        "conversations.list": Question(AskConversations, conversations.list_conversations),
        "conversations.items": Question(AskItems, conversations.list_items),
        "conversations.item": Question(AskItem, conversations.get_item),
        "conversations.branches": Question(AskBranch, branches.list_branches),
        "conversations.branch": Question(AskBranch, branches.get_branch),
        "conversations.export": Question(AskExport, exports.read_export),
        "shares.list": Question(AskShares, shares.list_shares),
        "shares.public": Question(AskPublicShare, shares.get_public),
        "projects.get": Question(AskProject, projects.get_project),
        "projects.list": Question(AskProjects, projects.list_projects),
        "settings.get": Question(AskSettings, settings.get_settings),
        "prompts.get": Question(AskPrompt, prompts.get_prompt),
        "prompts.list": Question(AskPrompts, prompts.list_prompts),
        "prompts.versions": Question(AskPromptVersions, prompts.list_versions),
        "prompts.render": Question(AskRendered, prompts.render),
        "conversations.context": Question(AskContext, turns.get_context),
        "conversations.messages": Question(AskItems, turns.list_messages),
        "completions.get": Question(AskCompletion, completions.get_completion),
        "completions.list": Question(AskCompletions, completions.list_completions),
        "completions.messages": Question(AskCompletion, completions.list_messages),
        "files.search": Question(AskSearch, files.search),
        "responses.get": Question(AskResponse, responses.get_response),
        "responses.input": Question(AskResponseInput, responses.list_input),
        "responses.context": Question(AskResponseContext, responses.get_context),
        "usage.sum": Question(AskUsage, usage.sum_usage),
    }


class Behind(Exception):
    """A database has not taken in all that the asker has written."""


class Source:
    """A database that can answer so many questions at once, and how far it is known to have come.

    Who waits for the log holds no connection: all who wait share one look at it.
    """

    def __init__(self, name: str, database: Database, at_once: int) -> None:
        self.name = name
        self.database = database
        self.free = asyncio.Semaphore(at_once)
        self._reached = 0
        self._looked = 0.0
        self._looking = asyncio.Lock()
        self._left_alone_until = 0.0
        self._progress = asyncio.Event()

    @property
    def usable(self) -> bool:
        """Whether it is worth a try: one that was away a moment ago is not."""
        return _now() >= self._left_alone_until

    def fail(self, error: BaseException) -> None:
        """It did not answer."""
        self.database.health.down(error)
        self._left_alone_until = _now() + _LEFT_ALONE

    def advanced(self, reached: int) -> None:
        """The projection has just written something, and all of the log up to there is in it."""
        self._note(reached)
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def until_reached(self, seq: int, patience: float) -> None:
        """Wait until it is known to have all of the log up to `seq`. Raises Behind."""
        end = _now() + patience
        while not self._knows(seq):
            if _now() >= end:
                raise Behind
            if _now() >= self._looked + _LOOK_AGAIN:
                await self._look()
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._progress.wait(), _LOOK_AGAIN)

    async def require(self, connection: AsyncConnection, seq: int) -> None:
        """Refuse to be asked if it lacks something of the log up to `seq`. Raises Behind."""
        if self._knows(seq):
            return
        self._note(await positions.reached(connection))
        if not self._knows(seq):
            raise Behind

    async def _look(self) -> None:
        async with self._looking:
            if _now() >= self._looked + _LOOK_AGAIN:
                async with self.free, self.database.connect(_SECONDS) as connection:
                    self._note(await positions.reached(connection))

    def _note(self, reached: int) -> None:
        self._reached, self._looked = reached, _now()

    def _knows(self, seq: int) -> bool:
        # Known for a moment only: who restores a backup takes the database back.
        return not seq or (seq <= self._reached and _now() < self._looked + _KNOWN_SECONDS)


class Answers:
    """The handler of `query.>`: it takes a question's bytes and returns the answer's.

    `sources` are tried in order; only the last, the database itself, is waited for.
    """

    def __init__(
        self, sources: Sequence[Source], bus: Bus, on_answer: Callable[[str], None] = lambda _: None
    ) -> None:
        self._sources = sources
        self._on_answer = on_answer
        self._questions = {
            name: (msgspec.json.Decoder(question.kind).decode, question.read)
            for name, question in create_questions(bus).items()
        }

    async def answer(self, subject: str, asked: bytes) -> bytes:
        """Answer the question on `query.<noun>.<verb>`."""
        name = subject.removeprefix("query.")
        try:
            decode, read = self._questions[name]
            ask = decode(asked)
        except KeyError:
            return encode_failure(InvalidRequest(f"nobody knows the question {name}"))
        except (msgspec.DecodeError, ValueError) as error:  # ValueError: it is not UTF-8
            return encode_failure(InvalidRequest(f"the question can't be read: {error}"))
        return await self._read_somewhere(read, ask)

    async def _read_somewhere(self, read: Read, ask: Ask) -> bytes:
        *others, last = self._sources
        for source in others:
            if source.usable:
                try:
                    return await self._read(source, read, ask, 0.0)
                except (Behind, NotFound, SQLAlchemyError, OSError) as error:
                    _note_failure(source, error)
        try:
            return await self._read(last, read, ask, _PATIENCE)
        except Behind:
            failure: JanError = Unavailable(
                "the database is behind the log: ask again later", retry_after=1
            )
        except (SQLAlchemyError, OSError) as cause:
            if isinstance(cause, DBAPIError) and is_poison(cause):
                failure = InvalidRequest(f"the question is refused: {describe(cause)}")
            elif is_too_slow(cause):
                failure = Unavailable("the question takes too long: ask for less", retry_after=1)
            else:
                last.database.health.down(cause)
                failure = Unavailable("the database does not answer", retry_after=1)
        except Exception:  # a fault of ours: who asks shall not wait in vain
            logger.exception("a question failed", question=type(ask).__name__)
            failure = InternalError("the question failed")
        return encode_failure(failure)

    async def _read(self, source: Source, read: Read, ask: Ask, patience: float) -> bytes:
        answer: msgspec.Struct | bytes
        try:
            if patience:
                await source.until_reached(ask.after, patience)
            async with source.free, source.database.connect(_SECONDS) as connection:
                await source.require(connection, ask.after)
                answer = await read(connection, ask)
        except JanError as error:
            if isinstance(error, NotFound) and source is not self._sources[-1]:
                raise  # it may have been made a moment ago: the database itself knows
            answer = encode_failure(error)
        source.database.health.up()
        self._on_answer(source.name)
        return answer if isinstance(answer, bytes) else encode_answer(answer)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _note_failure(source: Source, error: Exception) -> None:
    """A replica that is behind, or has dropped a slow question, is none that is away."""
    known = isinstance(error, Behind | NotFound) or (
        isinstance(error, DBAPIError) and (is_poison(error) or is_transient(error))
    )
    if not known and not is_too_slow(error):
        source.fail(error)

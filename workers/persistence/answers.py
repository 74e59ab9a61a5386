"""Questions about stored things, answered from the database and the log."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import Bus
from schemas import subjects
from schemas.errors import InternalError, InvalidRequest, JanError, Unavailable
from schemas.events import RunFinished, decode_run_finished
from schemas.queries import (
    Ask,
    AskBranch,
    AskCompletion,
    AskCompletions,
    AskContext,
    AskConversation,
    AskConversations,
    AskEntity,
    AskExport,
    AskItem,
    AskItems,
    AskPublicShare,
    AskRun,
    AskRunEvents,
    AskRuns,
    AskShares,
    AskUsage,
    encode_answer,
    encode_failure,
)
from workers.persistence import positions
from workers.persistence.database import Database, describe, is_poison
from workers.persistence.queries import (
    branches,
    completions,
    conversations,
    entities,
    exports,
    runs,
    shares,
    turns,
    usage,
)

logger = structlog.get_logger()

_SECONDS = 3.0
_PATIENCE = 2.0  # seconds that an answer waits for what the asker has written
_LOOK_AGAIN = 0.02


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

    async def get_result(connection: AsyncConnection, ask: AskRun) -> msgspec.Struct:
        return await runs.get_result(connection, ask, read_finished)

    return {
        "runs.get": Question(AskRun, runs.get_run),
        "runs.list": Question(AskRuns, runs.list_runs),
        "runs.events": Question(AskRunEvents, get_events),
        "entities.events": Question(AskEntity, entities.get_events),
        "runs.result": Question(AskRun, get_result),
        "conversations.get": Question(AskConversation, conversations.get_conversation),
        "conversations.list": Question(AskConversations, conversations.list_conversations),
        "conversations.items": Question(AskItems, conversations.list_items),
        "conversations.item": Question(AskItem, conversations.get_item),
        "conversations.branches": Question(AskBranch, branches.list_branches),
        "conversations.branch": Question(AskBranch, branches.get_branch),
        "conversations.export": Question(AskExport, exports.read_export),
        "shares.list": Question(AskShares, shares.list_shares),
        "shares.public": Question(AskPublicShare, shares.get_public),
        "conversations.context": Question(AskContext, turns.get_context),
        "conversations.messages": Question(AskItems, turns.list_messages),
        "completions.get": Question(AskCompletion, completions.get_completion),
        "completions.list": Question(AskCompletions, completions.list_completions),
        "completions.messages": Question(AskCompletion, completions.list_messages),
        "usage.sum": Question(AskUsage, usage.sum_usage),
    }


class Answers:
    """The handler of `query.>`: it takes a question's bytes and returns the answer's."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
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
        try:
            return await self._read(ask, read)
        except JanError as error:
            return encode_failure(error)
        except Exception:  # a fault of ours: who asks shall not wait in vain
            logger.exception("a question failed", name=name)
            return encode_failure(InternalError("the question failed"))

    async def _read(self, ask: Ask, read: Read) -> bytes:
        try:
            async with self._database.connect(_SECONDS) as connection:
                await _until_projected(connection, ask.after)
                answer = await read(connection, ask)
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, DBAPIError) and is_poison(error):
                raise InvalidRequest(f"the question is refused: {describe(error)}") from error
            self._database.health.down(error)
            raise Unavailable("the database does not answer", retry_after=1) from error
        return answer if isinstance(answer, bytes) else encode_answer(answer)


async def _until_projected(connection: AsyncConnection, seq: int) -> None:
    """Wait until the database has all of the log up to `seq`. Raises Unavailable."""
    if not seq:
        return
    end = asyncio.get_running_loop().time() + _PATIENCE
    while not await positions.has_reached(connection, seq):
        if asyncio.get_running_loop().time() >= end:
            raise Unavailable("the database is behind the log: ask again later", retry_after=1)
        await connection.rollback()
        await asyncio.sleep(_LOOK_AGAIN)

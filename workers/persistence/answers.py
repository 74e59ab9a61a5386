"""Questions about stored things, answered from the database and the log."""

from collections.abc import Callable, Sequence

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
from workers.persistence.database import describe, is_poison, is_too_slow, is_transient
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
from workers.persistence.sources import Behind, GatheredQuestion, Question, Source

logger = structlog.get_logger()

_PATIENCE = 2.0  # seconds that an answer waits for what the asker has written


def create_questions(bus: Bus) -> dict[str, Question | GatheredQuestion]:
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

    async def get_context(connection: AsyncConnection, ask: AskResponseContext) -> msgspec.Struct:
        return await responses.get_context(connection, ask, read_accepted)

    return {
        "runs.get": Question(AskRun, runs.get_run),
        "runs.list": Question(AskRuns, runs.list_runs),
        "runs.events": Question(AskRunEvents, get_events),
        "entities.events": Question(AskEntity, entities.get_events),
        "runs.result": Question(AskRun, get_result),
        "runs.command": Question(AskRun, get_command),
        "conversations.get": GatheredQuestion(AskConversation, conversations.get_conversations),
        "conversations.list": Question(AskConversations, conversations.list_conversations),
        "conversations.items": Question(AskItems, conversations.list_items),
        "conversations.item": Question(AskItem, conversations.get_item),
        "conversations.branches": Question(AskBranch, branches.list_branches),
        "conversations.branch": Question(AskBranch, branches.get_branch),
        "conversations.export": Question(AskExport, exports.read_export),
        "shares.list": Question(AskShares, shares.list_shares),
        "shares.public": Question(AskPublicShare, shares.get_public),
        "projects.get": GatheredQuestion(AskProject, projects.get_projects),
        "projects.webhook": Question(AskProject, projects.get_webhook),
        "projects.list": Question(AskProjects, projects.list_projects),
        "settings.get": Question(AskSettings, settings.get_settings),
        "prompts.get": Question(AskPrompt, prompts.get_prompt),
        "prompts.list": Question(AskPrompts, prompts.list_prompts),
        "prompts.versions": Question(AskPromptVersions, prompts.list_versions),
        "prompts.render": Question(AskRendered, prompts.render),
        "conversations.context": Question(AskContext, turns.get_context),
        "conversations.messages": Question(AskItems, turns.list_messages),
        "completions.get": GatheredQuestion(AskCompletion, completions.get_completions),
        "completions.list": Question(AskCompletions, completions.list_completions),
        "completions.messages": Question(AskCompletion, completions.list_messages),
        "files.search": Question(AskSearch, files.search),
        "responses.get": GatheredQuestion(AskResponse, responses.get_responses),
        "responses.input": Question(AskResponseInput, responses.list_input),
        "responses.context": Question(AskResponseContext, get_context),
        "usage.sum": Question(AskUsage, usage.sum_usage),
    }


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
            name: (msgspec.json.Decoder(question.kind).decode, question)
            for name, question in create_questions(bus).items()
        }

    async def answer(self, subject: str, asked: bytes) -> bytes:
        """Answer the question on `query.<noun>.<verb>`."""
        name = subject.removeprefix("query.")
        try:
            decode, question = self._questions[name]
            ask = decode(asked)
        except KeyError:
            return encode_failure(InvalidRequest(f"nobody knows the question {name}"))
        except (msgspec.DecodeError, ValueError) as error:  # ValueError: it is not UTF-8
            return encode_failure(InvalidRequest(f"the question can't be read: {error}"))
        return await self._read_somewhere(question, ask)

    async def _read_somewhere(self, question: Question | GatheredQuestion, ask: Ask) -> bytes:
        *others, last = self._sources
        for source in others:
            if source.usable:
                try:
                    return await self._read(source, question, ask, 0.0)
                except (Behind, NotFound, SQLAlchemyError, OSError) as error:
                    _note_failure(source, error)
        try:
            return await self._read(last, question, ask, _PATIENCE)
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

    async def _read(
        self, source: Source, question: Question | GatheredQuestion, ask: Ask, patience: float
    ) -> bytes:
        answer: msgspec.Struct | bytes
        try:
            if patience:
                await source.until_reached(ask.after, patience)
            answer = await source.read(question, ask)
        except JanError as error:
            if isinstance(error, NotFound) and source is not self._sources[-1]:
                raise  # it may have been made a moment ago: the database itself knows
            answer = encode_failure(error)
        source.database.health.up()
        self._on_answer(source.name)
        return answer if isinstance(answer, bytes) else encode_answer(answer)


def _note_failure(source: Source, error: Exception) -> None:
    """A replica that is behind, or has dropped a slow question, is none that is away."""
    known = isinstance(error, Behind | NotFound) or (
        isinstance(error, DBAPIError) and (is_poison(error) or is_transient(error))
    )
    if not known and not is_too_slow(error):
        source.fail(error)

"""Titles by a model: asked for beside everything else, once a conversation has one of first words.

The job goes as a replay does: behind what clients wait for, counted as nobody's usage, and told to
the log without its content. Whatever goes wrong, the first words stay.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import SQLAlchemyError

from bus import Bucket, Bus
from schemas import frames, ids, subjects, writes
from schemas.api.items import Item, text_of
from schemas.catalogue import Catalogue, Deployment, decode_catalogue
from schemas.commands import Command, RunInference, Target, encode
from schemas.errors import JanError
from schemas.events import StateChanged, decode_state_changed
from schemas.history import History, finish
from workers.persistence.changes import Row, decode_rows
from workers.persistence.commander import Commander, DatabaseAway, ToldEvent
from workers.persistence.database import Database, describe
from workers.persistence.tables import conversation_items
from workers.persistence.titles import COUNTED, MAX_WORDS, is_due, to_short_title

logger = structlog.get_logger()

_AT_ONCE: Final = 2
_WAITING: Final = 1000  # a few KiB each; what comes while so many wait keeps its first words
_SECONDS: Final = 60.0  # that a title may take
_LOOK_AGAIN: Final = (0.1, 1.0)  # seconds from the first look for an answer on, growing
_DATABASE_SECONDS: Final = 2.0
_SHOWN: Final = 2000  # characters of each message
_MOST_TOKENS: Final = 200  # some think first
_ASKED: Final = (
    f"Give the conversation that follows a title of at most {MAX_WORDS} words, in its own language."
    " Answer with the title alone: no quotes, no full stop, no explanation."
)


class Wanted(NamedTuple):
    """A title that is to be made, in place of the one of first words."""

    conversation: str
    principal: str
    run_id: str
    title: str | None
    first: int  # position of the turn's first item
    said: Sequence[Item]


class Titler:
    """Stores events as the commander does, and has titles made for the turns that they tell of."""

    def __init__(self, model: str, database: Database, bus: Bus, commander: Commander) -> None:
        self._model = model
        self._database = database
        self._bus = bus
        self._commander = commander
        self._waiting: asyncio.Queue[Wanted] = asyncio.Queue(_WAITING)

    async def tell_all(self, told: Sequence[bytes]) -> None:
        """Store events. Raises BusError."""
        await self._commander.tell_all(told)
        for event in told:
            wanted = to_wanted(event)
            if wanted is not None and not self._waiting.full():
                self._waiting.put_nowait(wanted)

    async def run(self) -> None:
        """Make titles, a few at a time, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._make_all())

    async def _make_all(self) -> None:
        while True:
            wanted = await self._waiting.get()
            try:
                await self._make(wanted)
            except JanError as error:
                logger.warning("a title stays as it is", run_id=wanted.run_id, why=error.message)
            except (SQLAlchemyError, OSError, DatabaseAway) as error:
                logger.warning("a title stays as it is", run_id=wanted.run_id, why=describe(error))
            except (msgspec.DecodeError, LookupError, TypeError, ValueError) as error:
                # Its text may have what was said.
                what = type(error).__name__
                logger.warning("a title stays as it is", run_id=wanted.run_id, why=what)

    async def _make(self, wanted: Wanted) -> None:
        if not await self._is_due(wanted):
            return
        targets = to_targets(await self._read_catalogue(), self._model)
        if not targets:
            logger.warning("no deployment serves the model for titles", model=self._model)
            return
        title = to_short_title(await self._ask(wanted, targets))
        if title is not None:
            await self._rename(wanted, title)

    async def _is_due(self, wanted: Wanted) -> bool:
        """Whether first words were made a title for this turn: the same rule, the same count."""
        question = {"conversation": wanted.conversation, "first": wanted.first}
        async with self._database.connect(_DATABASE_SECONDS) as connection:
            before = await connection.scalar(_SAID_BEFORE, question) or 0
        after = before + sum(item.get("role") == "user" for item in wanted.said)
        return before < COUNTED and is_due(before, after)

    async def _read_catalogue(self) -> Catalogue:
        entry = await Bucket(self._bus, subjects.KV_MODELS).get(subjects.CATALOGUE_KEY)
        return decode_catalogue(entry.value) if entry is not None else Catalogue()

    async def _ask(self, wanted: Wanted, targets: list[Target]) -> str:
        """Have the model answer; nothing if it does not in time. Raises BusError."""
        now = time.time()
        job = RunInference(
            run_id=ids.new_run_id(),
            kind="chat",
            edge=subjects.REPLAYS,
            principal=wanted.principal,
            model=self._model,
            targets=targets,
            created=int(now),
            deadline=now + _SECONDS,
            request_id=ids.new_id("req_"),
            background=True,
            request=msgspec.Raw(to_request(self._model, wanted.said)),
            replay_of=wanted.run_id,
        )
        await self._bus.store(
            subjects.inference_job(targets[0].pool, subjects.BACKGROUND),
            encode(job),
            msg_id=f"JOBS:inference:{job.run_id}:0",
        )
        pause, longest = _LOOK_AGAIN
        while time.time() < job.deadline:
            history = await self._read(job.run_id)
            if history.commit is not None:
                return _to_answer(finish(job.run_id, history).result)
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        return ""

    async def _read(self, run_id: str) -> History:
        fold, history = frames.Fold(), History()
        take = partial(history.read, fold)
        subject = subjects.frames(subjects.REPLAYS, run_id)
        async for stored in self._bus.read_subject(subjects.TOKENS, subject):
            take(stored.seq, stored.data)
        return history

    async def _rename(self, wanted: Wanted, title: str) -> None:
        now = time.time()
        body = writes.Retitle(wanted.conversation, title, wanted.title)
        command = Command(
            id=f"title:{wanted.run_id}",
            principal=wanted.principal,
            at=now,
            deadline=now + _SECONDS,
            body=msgspec.Raw(encode(body)),
        )
        await self._commander.carry_out("conversations.retitle", command)


def to_wanted(told: bytes) -> Wanted | None:
    """The title that a turn may want; None if an event tells of none, or one was given by hand."""
    if b"conversation.turn_added" not in told:
        return None
    event: StateChanged = decode_state_changed(msgspec.json.decode(told, type=ToldEvent).event)
    rows = decode_rows(event)
    [row], items = rows.get("conversations", []), rows.get("conversation_items", [])
    if row["title_locked"] or not items or event.run_id is None:
        return None
    return Wanted(
        conversation=event.entity,
        principal=event.principal,
        run_id=event.run_id,
        title=row["title"],
        first=min(item["position"] for item in items),
        said=[_to_item(item) for item in items],
    )


def to_targets(catalogue: Catalogue, model: str) -> list[Target]:
    """The deployments that can chat as a model, in the order to try them."""
    found = [one for known in catalogue.models if known.id == model for one in known.deployments]
    able = [one for one in found if _can_chat(one)]
    return [Target(one.id, one.pool) for one in sorted(able, key=lambda one: one.priority)]


def to_request(model: str, said: Sequence[Item]) -> bytes:
    """Ask for a title of what was said."""
    lines = [
        f"{item['role']}: {text_of(item)[:_SHOWN]}"
        for item in said
        if item.get("role") in ("user", "assistant")
    ]
    messages = [
        {"role": "system", "content": _ASKED},
        {"role": "user", "content": "\n\n".join(lines)},
    ]
    return encode({"model": model, "messages": messages, "max_tokens": _MOST_TOKENS})


def _can_chat(deployment: Deployment) -> bool:
    return not deployment.capabilities or "chat" in deployment.capabilities


def _to_item(row: Row) -> Item:
    item: Item = msgspec.json.decode(row["content"])
    return item


def _to_answer(result: msgspec.Raw | None) -> str:
    body: dict[str, Any] = msgspec.json.decode(result) if result is not None else {}
    for choice in body.get("choices", []):
        return str(choice["message"].get("content") or "")
    return ""


_SAID_BEFORE = select(func.count()).select_from(
    select(conversation_items.c.id)
    .where(
        conversation_items.c.conversation_id == bindparam("conversation"),
        conversation_items.c.type == "message",
        conversation_items.c.role == "user",
        conversation_items.c.position < bindparam("first"),
    )
    .limit(COUNTED)
    .subquery()
)

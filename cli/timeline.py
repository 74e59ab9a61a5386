"""A run's story out of what is stored of it: one fact a line, for people or for programs.

Pure: `Story` is fed with the messages of EVENTS, TOKENS and CONTROL as they are read, and says what
each of them tells. Times are the writers' own clocks, in unix seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from bus import Stored
from cli.calls import OF_CALLS, Calls
from schemas import events, frames
from schemas.commands import decode_cancel_run

# What comes first among facts of the same moment.
_ORDER = (
    *("accepted", "queued", "cancel", "fence", "handover", "picked"),
    *("first", "frames", "result", "commit"),
)
_LONE_FRAME = 1


@dataclass(frozen=True, slots=True)
class Fact:
    """One line: `text` for people, `fields` for programs."""

    at: float
    what: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Sort facts of several sources by time."""
    return sorted(facts, key=lambda fact: (fact.at, _rank(fact.what)))


def _rank(what: str) -> int:
    return _ORDER.index(what) if what in _ORDER else len(_ORDER)


@dataclass(slots=True)
class Span:
    """Frames of one attempt, one after the other."""

    first: int
    began: float
    last: float
    count: int = 0
    messages: int = 0
    size: int = 0
    result: bool = False

    def add(self, frame: frames.Frame) -> None:
        """Take in the next message."""
        self.last = frame.at * 1e-6
        self.count += frame.events
        self.messages += 1
        self.size += len(frame.data)
        self.result = bool(frame.flags & frames.RESULT)

    @property
    def rate(self) -> float | None:
        """Frames a second, where that says anything."""
        took = self.last - self.began
        return (self.count - 1) / took if self.count > _LONE_FRAME and took > 0 else None

    def to_fact(self) -> Fact:
        """Tell it as one line."""
        if self.result:
            words = [f"{show_size(self.size)} of JSON in {_count(self.messages, 'message')}"]
        else:
            words = [f"{_range(self.first, self.count)} in {_count(self.messages, 'message')}"]
            words += [show_time(self.last - self.began)] if self.count > _LONE_FRAME else []
            words += [f"{self.rate:,.1f}/s"] if self.rate else []
        fields = {
            "first": self.first,
            "count": self.count,
            "messages": self.messages,
            "bytes": self.size,
            "seconds": round(self.last - self.began, 6),
            "rate": round(self.rate, 3) if self.rate else None,
        }
        return Fact(self.last, "result" if self.result else "frames", " · ".join(words), fields)


class Story:
    """What is known of a run so far."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.accepted: events.RunAccepted | None = None
        self.finished: events.RunFinished | None = None
        self.replay_of: str | None = None
        self.calls = Calls(run_id)
        self.event_seq = 0  # the last messages seen, of each stream
        self.control_seq = 0
        self.fold = frames.Fold()
        self.span: Span | None = None  # frames that are not told yet
        self._started_at = 0.0
        self._owner = ""
        self._worker = ""
        self._last_frame_at = 0.0

    @property
    def known(self) -> bool:
        """Whether anything at all was found."""
        return bool(self.event_seq or self.fold.seq)

    @property
    def over(self) -> bool:
        """Whether the log has nothing to tell any more."""
        return self.finished is not None and not self.calls.open

    def on_event(self, stored: Stored) -> list[Fact]:
        """Take in a message of the run's shard of the log; others' tell nothing."""
        of_run = stored.subject.startswith(("events.run.", "events.replay."))
        verb = stored.subject.split(".")[2] if of_run else ""
        if self.run_id.encode() not in stored.data:  # most of a shard is about others
            return []
        try:
            if stored.subject.startswith(OF_CALLS):
                self.calls.on_event(stored)
                return []
            facts = self._read_event(verb, stored)
        except (msgspec.DecodeError, ValueError) as error:
            return [_unreadable(stored, error)]
        if facts:
            self.event_seq = stored.seq
        return [_with(fact, seq=stored.seq) for fact in facts]

    def on_frame(self, stored: Stored) -> list[Fact]:
        """Take in the next message of the run's frames."""
        try:
            return self._read_frame(stored)
        except (msgspec.DecodeError, ValueError) as error:
            self.fold.seq = stored.seq
            return [_unreadable(stored, error)]

    def on_control(self, stored: Stored) -> list[Fact]:
        """Take in a request to cancel."""
        self.control_seq = stored.seq
        try:
            cancel = decode_cancel_run(stored.data)
        except (msgspec.DecodeError, ValueError) as error:
            return [_unreadable(stored, error)]
        by = f" by {cancel.by}" if cancel.by else ""
        fields = {"reason": cancel.reason, "by": cancel.by, "seq": stored.seq}
        return [Fact(cancel.at or stored.time, "cancel", f"asked for{by}: {cancel.reason}", fields)]

    def from_the_end(self) -> list[Fact]:
        """What RunFinished says of the frames, for when they themselves are no longer kept."""
        if self.finished is None or self.fold.seq:
            return []
        return [_spoken(attempt) for attempt in self.finished.attempts]

    def flush(self) -> list[Fact]:
        """Tell the frames that are waiting to be told together."""
        span, self.span = self.span, None
        return [span.to_fact()] if span is not None and span.count else []

    def _read_event(self, verb: str, stored: Stored) -> list[Fact]:
        match verb:
            case "accepted":
                accepted = events.decode_run_accepted(stored.data)
                return self._on_accepted(accepted, len(stored.data))
            case "started":
                return self._on_started(events.decode_run_started(stored.data))
            case "finished":
                return self._on_finished(events.decode_run_finished(stored.data))
            case _:
                told = msgspec.json.decode(stored.data, type=dict[str, Any])
                if told.get("run_id") != self.run_id:
                    return []
                return [Fact(_moment(told.get("at"), stored.time), verb or stored.subject, "")]

    def _on_accepted(self, event: events.RunAccepted, size: int) -> list[Fact]:
        job = event.command
        if job.run_id != self.run_id:
            return []
        self.accepted = event
        streamed = "streamed" if job.stream else "not streamed"
        text = f"by {job.edge} for {job.principal} · {job.kind} of {job.model}, {streamed}"
        fields = {
            "edge": job.edge,
            "principal": job.principal,
            "api_key": job.api_key,
            "kind": job.kind,
            "model": job.model,
            "stream": job.stream,
            "request_id": job.request_id,
            "parent": job.parent,
            "deadline": job.deadline,
            "bytes": size,
        }
        return [Fact(event.at, "accepted", text, fields), self._queued(event)]

    def _queued(self, event: events.RunAccepted) -> Fact:
        job = event.command
        priority = "background" if job.background else "interactive"
        pools = list(dict.fromkeys(target.pool for target in job.targets))
        text = f"for pool {', then '.join(pools) or '?'} · {priority}"
        if job.kind == "response":
            text = f"for a worker of responses · {priority}"
        targets = [msgspec.to_builtins(target) for target in job.targets]
        return Fact(event.at, "queued", text, {"priority": priority, "targets": targets})

    def _on_started(self, event: events.RunStarted) -> list[Fact]:
        if event.run_id != self.run_id:
            return []
        self.replay_of = event.replay_of
        words = [f"by {event.worker}, attempt {event.attempt}", f"{event.deployment}"]
        waited = event.at - self.accepted.at if self.accepted else None
        if waited is not None and not self._started_at:
            words.append(f"waited {show_time(waited)}")
        if event.resumed_at:
            words.append(f"goes on at #{event.resumed_at}")
        self._started_at = self._started_at or event.at
        fields = msgspec.to_builtins(event) | {"waited": waited}
        return [Fact(event.at, "picked", " · ".join(words), fields)]

    def _on_finished(self, event: events.RunFinished) -> list[Fact]:
        if event.run_id != self.run_id:
            return []
        self.finished = event
        self.replay_of = event.replay_of
        usage = to_usage(event.usage)
        words = [event.finish_reason] if event.finish_reason and event.status == "completed" else []
        words += [error_text(event.error)] if event.error else []
        words += [tokens(usage)] if usage else []
        words += [show_time(event.at - self.accepted.at) + " in all"] if self.accepted else []
        fields = {
            "status": event.status,
            "deployment": event.deployment,
            "finish_reason": event.finish_reason,
            "frames": event.frames,
            "usage": usage,
            "error": _json(event.error),
            "attempts": msgspec.to_builtins(event.attempts),
        }
        return [Fact(event.at, event.status, " · ".join(words), fields)]

    def _read_frame(self, stored: Stored) -> list[Fact]:
        frame = frames.decode(stored.data)
        counts = self.fold.apply(stored.seq, stored.data) is not None
        match frame.kind:
            case frames.FENCE:
                return self.flush() + self._on_fence(stored.seq, frame)
            case frames.DATA if counts:
                return self._on_data(frame)
            case frames.DATA:
                text = f"{_range(frame.first, frame.events)} of epoch {frame.epoch}: nobody sees it"
                fields = {"first": frame.first, "count": frame.events, "epoch": frame.epoch}
                return [Fact(frame.at * 1e-6, "late", text, fields)]
            case frames.END:
                seq = frames.decode_end(frame.trailer).event_seq
                return [Fact(frame.at * 1e-6, "end", "readers are told", {"event_seq": seq})]
        return []

    def _on_fence(self, epoch: int, frame: frames.Frame) -> list[Fact]:
        fence = frames.decode_fence(frame.trailer)
        at, first = frame.at * 1e-6, self.fold.next
        fields = msgspec.to_builtins(fence) | {"epoch": epoch, "first": first}
        before, self._worker = self._worker, fence.worker
        again, self._owner = fence.owner == self._owner, fence.owner
        text = f"epoch {epoch} by {fence.worker}, attempt {fence.attempt}"
        if again:
            return [Fact(at, "fence", f"{text} · once more: the first one's ack was lost", fields)]
        if not before:
            return [Fact(at, "fence", text, fields)]
        whom = "itself" if before == fence.worker else f"{before} to {fence.worker}"
        words = [f"from {whom}, attempt {fence.attempt}", f"epoch {epoch}", f"at #{first}"]
        if self._last_frame_at:
            words.append(f"{show_time(at - self._last_frame_at)} after the last frame")
        return [Fact(at, "handover", " · ".join(words), fields | {"from": before})]

    def _on_data(self, frame: frames.Frame) -> list[Fact]:
        at = frame.at * 1e-6
        facts = [] if self._last_frame_at or frame.flags & frames.RESULT else [self._first(at)]
        self._last_frame_at = at
        if self.span is None:
            self.span = Span(frame.first, at, at)
        self.span.add(frame)
        if frame.flags & frames.COMMIT:
            facts += [*self.flush(), _committed(frame)]
        return facts

    def _first(self, at: float) -> Fact:
        since = at - self.accepted.at if self.accepted else None
        text = "#0" if since is None else f"#0 · {show_time(since)} after acceptance"
        return Fact(at, "first", text, {"seconds": round(since, 6) if since is not None else None})


def _committed(frame: frames.Frame) -> Fact:
    commit = frames.decode_commit(frame.trailer)
    by = f"by {commit.worker} on {commit.deployment or '?'}"
    text = f"{by} · the last is #{frame.first + frame.events - 1}"
    fields = {
        "status": commit.status,
        "worker": commit.worker,
        "deployment": commit.deployment,
        "attempt": commit.attempt,
        "http_status": frame.status or None,
    }
    return Fact(frame.at * 1e-6, "commit", text, fields)


def _spoken(attempt: events.Attempt) -> Fact:
    """An attempt whose frames are no longer kept."""
    text = f"{_range(attempt.first, attempt.count)} by {attempt.worker}, attempt {attempt.attempt}"
    return Fact(attempt.at, "frames", text, msgspec.to_builtins(attempt))


def _unreadable(stored: Stored, error: Exception) -> Fact:
    fields = {"seq": stored.seq, "subject": stored.subject}
    return Fact(stored.time, "unreadable", f"message {stored.seq}: {error}", fields)


def _with(fact: Fact, **fields: Any) -> Fact:
    return Fact(fact.at, fact.what, fact.text, fact.fields | fields)


def _moment(told: Any, otherwise: float) -> float:
    return float(told) if isinstance(told, int | float) else otherwise


def to_usage(raw: msgspec.Raw | None) -> dict[str, Any] | None:
    """What an engine told of the tokens it used."""
    told = _json(raw)
    return told if isinstance(told, dict) else None


def _json(raw: msgspec.Raw | None) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None


def tokens(usage: dict[str, Any]) -> str:
    """Tokens as people read them."""
    prompt, completion, total = (
        usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if completion is None:
        return f"{total or prompt} tokens"
    return f"{prompt} + {completion} = {total} tokens"


def error_text(raw: msgspec.Raw) -> str:
    """An error's envelope as people read it."""
    told = _json(raw)
    error = told.get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict):
        return "error"
    return f"{error.get('code') or error.get('type')}: {error.get('message')}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _range(first: int, count: int) -> str:
    if count <= 1:
        return f"#{first}" if count else "nothing"
    return f"#{first}–#{first + count - 1}"


def show_time(seconds: float) -> str:
    """A duration as people read it, to three digits or so."""
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1000:.1f} ms"
    if size < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(size), 60)
    return f"{'-' if seconds < 0 else ''}{minutes} min {rest:02} s"


def show_size(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count} B" if count < 1024 else f"{count / 1024:,.1f} KiB"


def head_lines(story: Story) -> list[str]:
    """What stands above the facts: which run this is, and when it began."""
    if story.accepted is None:
        return [story.run_id, *([f"a replay of {story.replay_of}"] if story.replay_of else [])]
    job = story.accepted.command
    began = datetime.fromtimestamp(story.accepted.at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    details = [f"{began} UTC", f"request {job.request_id}"]
    details += [f"key {job.api_key}"] if job.api_key else []
    details += [f"a step of {job.parent}"] if job.parent else []
    return [f"{story.run_id} · {job.kind} · {job.model}", " · ".join(details)]


def to_line(fact: Fact, began: float, before: float, *, width: int = 9) -> str:
    """A fact as a line: time since the beginning, since the line before, what, and the rest."""
    since = show_time(fact.at - began)
    gap = f"+{show_time(fact.at - before)}" if fact.at > before else ""
    return printable(f"{since:>11} {gap:>11}  {fact.what:<{width}}  {fact.text}".rstrip())


def to_json(fact: Fact, run_id: str | None, began: float) -> str:
    """A fact as one JSON object, without what is not known."""
    told: dict[str, Any] = {"run_id": run_id} if run_id else {}
    told |= {"at": fact.at, "ms": round((fact.at - began) * 1000, 3)}
    told |= {"what": fact.what} | {k: v for k, v in fact.fields.items() if v is not None}
    return msgspec.json.encode(told).decode()


def printable(text: str) -> str:
    """Make text safe for a terminal: clients choose names, and one may hold an escape code."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

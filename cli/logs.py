"""Logs: one JSON line per event from every process; text for a person at a terminal."""

import logging
import logging.handlers
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
FILE_BYTES = 10_000_000  # one file of a process's log …
FILES_KEPT = 3  # … and how many older ones stay
_COLOURS = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_FIRST = ("ts", "level", "process", "event")
_NATS = re.compile(r"^\[\d+\] \S+ \S+ \[(?P<level>[A-Z]{3})\] (?P<event>.*)$")
_POSTGRES = re.compile(r"^\S+ \S+ \S+ \[\d+\] (?P<level>[A-Z0-9]+):\s+(?P<event>.*)$")
_FOREIGN_LEVELS = {
    "DBG": "debug",
    "TRC": "debug",
    "WRN": "warning",
    "ERR": "error",
    "FTL": "critical",
    "WARNING": "warning",
    "ERROR": "error",
    "FATAL": "critical",
    "PANIC": "critical",
}
# Warnings that need nobody: the passwords are generated, and in the server's memory only.
_HARMLESS = ("Plaintext passwords detected",)


def configure(process: str, level: str = "info") -> None:
    """Set up structlog and the standard library's logging for one process, on stderr."""

    def name_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"ts": now(), "level": "info", "process": process, **event}

    render = _render_text if sys.stderr.isatty() else _render_json
    common: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        name_process,
        structlog.processors.format_exc_info,
    ]
    number = LEVELS.get(level.lower(), logging.INFO)
    structlog.configure(
        processors=[*common, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    # Libraries are heard when something is wrong; at `debug` they may talk.
    logging.basicConfig(
        handlers=[handler],
        level=number if number < LEVELS["info"] else LEVELS["warning"],
        force=True,  # a verb that becomes a process configures twice
    )


def now() -> str:
    """The time as logs write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return to_json(dict(event))


def _render_text(_: WrappedLogger, __: str, event: EventDict) -> str:
    return to_text(dict(event))


def to_json(event: dict[str, Any]) -> str:
    """One event as a line for machines: ts, level, process, event, then its fields."""
    ordered = {key: event[key] for key in _FIRST if key in event} | event
    return msgspec.json.encode(ordered, enc_hook=str).decode()


def to_text(event: dict[str, Any]) -> str:
    """One event as a line for people, in local time and colour."""
    rest = {key: value for key, value in event.items() if key not in _FIRST}
    trace = rest.pop("exception", "")
    level = str(event.get("level", "info"))
    fields = " ".join(f"{key}={_plain(value)}" for key, value in rest.items())
    line = f"{_clock(event.get('ts'))} {event.get('process', ''):<13} {event.get('event', '')}"
    line = " ".join(part for part in (line, fields) if part)
    if trace:
        line = f"{line}\n{trace}"
    colour = _COLOURS.get(level)
    return f"{colour}{line}\x1b[0m" if colour else line


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return msgspec.json.encode(text).decode() if " " in text else text


def _clock(ts: Any) -> str:
    try:
        return datetime.fromisoformat(str(ts)).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return time.strftime("%H:%M:%S")


def parse(process: str, line: bytes) -> dict[str, Any]:
    """Understand one line of a child: ours is JSON; nats-server's and PostgreSQL's are not."""
    if line.startswith(b"{"):
        try:
            event: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
            return {"process": process} | event
        except (msgspec.DecodeError, msgspec.ValidationError):
            pass
    text = line.decode(errors="replace").rstrip()
    known = _NATS.match(text) or _POSTGRES.match(text)
    level = _FOREIGN_LEVELS.get(known["level"], "info") if known else "info"
    event_text = known["event"] if known else text
    if event_text.startswith(_HARMLESS):
        level = "info"
    return {"ts": now(), "level": level, "process": process, "event": event_text}


class Logs:
    """Where the supervisor sends all lines: stderr, and a file per process that rotates."""

    def __init__(self, folder: Path, console: TextIO) -> None:
        self._folder = folder
        self._console = console
        self._text = console.isatty()
        self._files: dict[str, logging.handlers.RotatingFileHandler] = {}

    def take(self, process: str, line: bytes, quiet_below: str = "debug") -> dict[str, Any]:
        """Keep one line of a child, show it if its level is high enough, and return it parsed."""
        event = parse(process, line)
        self._keep(process, event)
        if LEVELS.get(str(event.get("level")), 20) >= LEVELS[quiet_below]:
            self._show(event)
        return event

    def say(self, event: str, *, level: str = "info", secret: str = "", **fields: Any) -> None:
        """Log an event of the supervisor itself; a `secret` is shown, but kept in no file."""
        line = {"ts": now(), "level": level, "process": "jan", "event": event} | fields
        self._keep("jan", line)
        self._show(line | {"secret": secret} if secret else line)

    def print_text(self, text: str, **fields: Any) -> None:
        """Show a person some text as it is; machines get `fields` on a line. No file keeps it."""
        if self._text:
            self._write(text)
        else:
            self._write(to_json({"ts": now(), "level": "info", "process": "jan"} | fields))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _keep(self, process: str, event: dict[str, Any]) -> None:
        file = self._files.get(process)
        if file is None:
            file = self._files[process] = logging.handlers.RotatingFileHandler(
                self._folder / f"{process}.log",
                maxBytes=FILE_BYTES,
                backupCount=FILES_KEPT,
                encoding="utf-8",
            )
        file.emit(logging.makeLogRecord({"msg": to_json(event)}))

    def _show(self, event: dict[str, Any]) -> None:
        self._write(to_text(event) if self._text else to_json(event))

    def _write(self, line: str) -> None:
        try:
            self._console.write(line + "\n")
            self._console.flush()
        except (OSError, ValueError):  # the reader of our stderr has gone: the files remain
            pass

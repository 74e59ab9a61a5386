"""What every process of the server does around its work: takes a name, logs, says it serves."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import structlog
from pydantic import ValidationError
from pydantic_settings import BaseSettings
from setproctitle import setproctitle

from cli import logs
from cli.exits import BadSetup, Exit
from cli.process import raise_file_limit
from cli.state import Process, Seat, State, default_data, load, take_free_seat, take_seat
from schemas.errors import JanError

logger = structlog.get_logger()

Settings = TypeVar("Settings", bound=BaseSettings)


def build_settings(kind: type[Settings], **given: Any) -> Settings:
    """Build a process's settings: what we give, then JAN_* variables. Raises BadSetup."""
    try:
        return kind(**given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            raise BadSetup(message) from None
        raise BadSetup(f"JAN_{str(fault['loc'][0]).upper()}: {message}") from None


def add_member_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that edges and workers share."""
    add = parser.add_argument
    add("--data", default=default_data(), help="the server to join (default: %(default)s)")
    add("--name", help="of this process (default: the first free one)")
    add("--ready-fd", type=int, help="descriptor to report on when it serves (of the supervisor)")


class Member:
    """One process of a server: supervised, or joined by hand."""

    def __init__(self, kind: str, args: argparse.Namespace) -> None:
        self.kind = kind
        self.state: State = load(args.data)
        self.state.nats_url(kind)  # raises BadSetup: before a name is taken where no server is
        self._ready_fd: int | None = args.ready_fd
        self.supervised = args.ready_fd is not None
        self._seat = _take(self.state, kind, args.name)
        self.name = self._seat.name

    def __enter__(self) -> "Member":
        data = self.state.data.path
        setproctitle(f"jan: {self.name} {data}")
        logs.configure(self.name, os.environ.get("JAN_LOG_LEVEL", "info"))
        raise_file_limit()
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """Give the name back; what ended the process is one line of its log."""
        self._seat.leave()
        if isinstance(exc, Exit):
            logger.critical(str(exc))
            raise SystemExit(exc.code) from None
        if isinstance(exc, JanError):
            logger.critical(exc.message)  # foreseen: where in the code it came up helps nobody
            raise SystemExit(1) from None
        if isinstance(exc, Exception):
            logger.critical(f"ended by {type(exc).__name__}: {exc}", exc_info=exc)
            raise SystemExit(1) from None

    def on_ready(self) -> Callable[[int], None]:
        """Make the function that the process calls with its port when it serves."""
        started = time.time()

        def tell(port: int) -> None:
            if self._ready_fd is not None:
                os.write(self._ready_fd, b'{"port": %d}\n' % port)
                os.close(self._ready_fd)
                self._ready_fd = None
            if not self.supervised:
                self._seat.tell(self._describe(port, started))
                print(f"ready: {self.name} of {self.state.data.path}", flush=True)

        return tell

    def on_loading(self, word: str) -> None:
        """Say to the supervisor that the process gets on, but does not serve yet."""
        if self._ready_fd is not None:
            os.write(self._ready_fd, msgspec.json.encode({"loading": word}) + b"\n")

    def _describe(self, port: int, started: float) -> Process:
        return Process(
            name=self.name,
            kind=self.kind,
            pid=os.getpid(),
            port=port if self.kind == "edge" else 0,
            metrics_port=port,
            started_at=started,
            state="ready",
            joined=True,
        )


def _take(state: State, kind: str, name: str | None) -> Seat:
    try:
        if name is None:
            return take_free_seat(state.data, kind)
        seat = take_seat(state.data, name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSetup(f"{state.data.path} can't be written ({reason})") from None
    if seat is None:
        raise BadSetup(f"{name} runs already on {state.data.path}: leave --name out for a free one")
    return seat

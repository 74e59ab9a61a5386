"""A client's server: real HTTP, takes webhooks and answers as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from openai import OpenAI
from openai.types.webhooks import UnwrapWebhookEvent


class Arrived(NamedTuple):
    """A webhook as it came."""

    headers: dict[str, str]
    body: str

    def unwrap(self, client: OpenAI, secret: str) -> UnwrapWebhookEvent:
        """Verify and read it as OpenAI's clients do."""
        return client.webhooks.unwrap(self.body, self.headers, secret=secret)


class Receiver(ThreadingHTTPServer):
    """Answers with `answers` first, then with 204; 0 is no answer until `close` is called."""

    daemon_threads = True

    def __init__(self, *answers: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[Arrived] = []
        self._answers = list(answers)
        self._changed = threading.Condition()
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        """Where it wants its webhooks."""
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def take(self, arrived: Arrived) -> int:
        """Note one; return how to answer."""
        with self._changed:
            self.received.append(arrived)
            self._changed.notify_all()
            status = self._answers.pop(0) if self._answers else 204
        if status == 0:
            self._closing.wait()
        return status or 503

    def wait_for(self, count: int, timeout: float = 30.0) -> list[Arrived]:
        """Wait until so many have come; fails with those that have."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, timeout), (
                self.received
            )
            return list(self.received)

    def close(self) -> None:
        """Let go of those that wait for an answer, and stop."""
        self._closing.set()
        self.shutdown()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send_response(self.server.take(Arrived(dict(self.headers), body)))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    """Receive for the context's life."""
    with Receiver(*answers) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            receiver.close()

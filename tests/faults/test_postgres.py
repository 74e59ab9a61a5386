"""PostgreSQL does not answer: who only generates does not notice."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from cli.launch import LaunchedServer
from tests.faults.conftest import MODEL, Start
from tests.support.server import eventually, http_client, openai_client


@contextmanager
def frozen_postgres(server: LaunchedServer) -> Iterator[None]:
    """PostgreSQL, all of its processes, stand still."""
    main = psutil.Process(server.process("postgres").pid)
    family = [main, *main.children(recursive=True)]
    for process in family:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in family:
            if process.is_running():
                os.kill(process.pid, signal.SIGCONT)


@pytest.mark.requirement("faults.postgres.stopped")
def test_chat_goes_on_without_postgres(start: Start) -> None:
    with start() as case, http_client(case.server.url) as http:
        client = openai_client(case.server.url, case.key)

        def chat() -> str | None:
            return (
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "Hello."}], max_tokens=5
                )
                .choices[0]
                .message.content
            )

        before = chat()
        with frozen_postgres(case.server):
            assert chat() == before
            degraded = eventually(
                lambda: (found := http.get("/readyz")).json()["status"] == "degraded" and found
            )
            assert degraded.status_code == 200
            assert chat() == before
        eventually(lambda: http.get("/readyz").json()["status"] == "ready")

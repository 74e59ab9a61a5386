"""The whole server for tests: `jan up` on free ports, with its own data, ended with the test."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

import httpx
import openai
import pytest

from cli.launch import LaunchedServer, NotReady, launched

T = TypeVar("T")


@contextmanager
def running_server(
    *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[LaunchedServer]:
    """Run a server; a missing program skips the test, or fails it in CI."""
    context = launched(*arguments, env=env)
    try:
        server = context.__enter__()
    except NotReady as error:
        if "is missing" in str(error) and not os.environ.get("CI"):
            pytest.skip(str(error))
        raise
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


def openai_client(url: str, key: str, **options: object) -> openai.OpenAI:
    """The real SDK against the server. It does not retry: a test wants to see the first answer."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60, **options)  # type: ignore[arg-type]


def http_client(url: str, key: str = "", **options: object) -> httpx.Client:
    """A plain client whose paths begin at the server's root."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    root = url.removesuffix("/v1")
    return httpx.Client(base_url=root, headers=headers, timeout=60, **options)  # type: ignore[arg-type]


def eventually(read: Callable[[], T], timeout: float = 20.0) -> T:
    """Call until the answer is true, as often as it takes; fails with the last answer.

    For what can only be asked for; `read` itself waits on the server, so nothing spins.
    """
    until = monotonic() + timeout
    while True:
        found = read()
        if found:
            return found
        if monotonic() > until:
            pytest.fail(f"after {timeout:g} s still: {found!r}")

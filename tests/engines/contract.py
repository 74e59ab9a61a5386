"""The contract's tests for an engine that takes a minute to start: all on one of them."""

import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.engines import test_contract
from workers.inference.engines import Engine

Promise = Callable[[Engine], Awaitable[None]]


def promises(lacks: frozenset[str]) -> Iterator[Any]:
    """Each of the contract's tests that needs nothing of this, with each of its parameters."""
    for name, test in inspect.getmembers(test_contract, inspect.iscoroutinefunction):
        if not name.startswith("test_"):
            continue
        marks = getattr(test, "pytestmark", [])
        if not lacks.intersection(*(mark.args for mark in marks if mark.name == "needs")):
            cases = [_cases(mark) for mark in marks if mark.name == "parametrize"]
            for number, combination in enumerate(itertools.product(*cases)):
                arguments = {name: value for case in combination for name, value in case.items()}
                label = f"{name}-{number}" if cases else name
                yield pytest.param(partial(test, **arguments), id=label)


def _cases(mark: pytest.Mark) -> list[dict[str, Any]]:
    """The arguments that a `parametrize` mark gives, set by set."""
    names, values = mark.args
    if isinstance(names, str):
        return [{names: value} for value in values]
    return [dict(zip(names, value, strict=True)) for value in values]

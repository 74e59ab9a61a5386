"""The contract's tests for an engine that takes a minute to start: all on one of them."""

import inspect
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from tests.engines import test_contract
from workers.inference.engines import Engine

Promise = Callable[[Engine], Awaitable[None]]


def promises(lacks: frozenset[str]) -> list[Any]:
    """Each of the contract's tests that needs nothing of this, with each of its parameters."""
    found: list[Any] = []
    for name, test in inspect.getmembers(test_contract, inspect.iscoroutinefunction):
        marks = getattr(test, "pytestmark", [])
        needs = {need for mark in marks if mark.name == "needs" for need in mark.args}
        if name.startswith("test_") and not needs & lacks:
            cases = [_cases(mark) for mark in marks if mark.name == "parametrize"]
            for number, combination in enumerate(itertools.product(*cases)):
                arguments = {name: value for case in combination for name, value in case.items()}
                label = f"{name}-{number}" if cases else name
                found.append(pytest.param(partial(test, **arguments), id=label))
    return found


def _cases(mark: pytest.Mark) -> list[dict[str, Any]]:
    """The arguments that a `parametrize` mark gives, set by set."""
    names, values = mark.args
    if isinstance(names, str):
        return [{names: value} for value in values]
    return [dict(zip(names, value, strict=True)) for value in values]

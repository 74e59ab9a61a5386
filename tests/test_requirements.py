"""Every requirement has a test and every test of the public API a requirement."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import AREAS, REQUIREMENTS

TESTS = Path(__file__).parent
BOUND = ("acceptance", "faults")  # the folders whose tests must name what they hold


def marks(decorators: list[ast.expr]) -> set[str]:
    """The ids in `@pytest.mark.requirement(...)` decorators."""
    ids: set[str] = set()
    for decorator in decorators:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(
            "mark.requirement"
        ):
            ids |= {ast.literal_eval(argument) for argument in decorator.args}
    return ids


def bound_in(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Each test function of a file with the ids that it holds."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            yield f"{path.relative_to(TESTS)}::{node.name}", marks(node.decorator_list)


ALL_TESTS = dict(found for path in TESTS.glob("**/test_*.py") for found in bound_in(path))


def holders() -> dict[str, list[str]]:
    """Which tests hold each requirement."""
    found: dict[str, list[str]] = defaultdict(list)
    for test, ids in ALL_TESTS.items():
        for requirement in ids:
            found[requirement].append(test)
    return found


@pytest.mark.parametrize("requirement", sorted(REQUIREMENTS))
def test_a_requirement_has_a_test_or_says_what_is_missing(requirement: str) -> None:
    assert holders()[requirement] or REQUIREMENTS[requirement].gap


def test_a_test_names_only_requirements_that_exist() -> None:
    assert set(holders()) - set(REQUIREMENTS) == set()


def test_every_test_of_the_public_api_holds_a_requirement() -> None:
    unbound = [test for test, ids in ALL_TESTS.items() if test.startswith(BOUND) and not ids]
    assert unbound == []


def test_every_requirement_belongs_to_an_area() -> None:
    assert {name.split(".")[0] for name in REQUIREMENTS} == set(AREAS)

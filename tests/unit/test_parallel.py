"""`jan test` spreads the whole suite over processes, and leaves a part of it in one."""

import sys
from pathlib import Path

import pytest

from cli.test import keep_bytecode, to_pytest
from tests.conftest import MOST, pytest_xdist_auto_num_workers


@pytest.mark.parametrize("arguments", [[], ["-x"], ["-v", "--durations=9"]])
def test_the_whole_suite_is_run_by_several_processes(arguments: list[str]) -> None:
    assert 3 <= workers(arguments) <= MOST


@pytest.mark.parametrize(
    "arguments",
    [["tests/unit"], ["tests/test_lock.py", "-q"], ["-k", "stream"], ["-m", "vllm"], ["-s"]],
)
def test_a_part_of_it_is_run_by_one(arguments: list[str]) -> None:
    assert workers(arguments) == 0


def test_what_is_given_wins() -> None:
    assert to_pytest(["-n", "2"])[-2:] == ["-n", "2"]
    assert to_pytest(["-p", "no:xdist"]) == ["-p", "no:xdist"]


def test_bytecode_is_kept_and_not_beside_the_sources_if_somebody_minds() -> None:
    assert keep_bytecode({"A": "b"}) == {"A": "b"}
    kept = keep_bytecode({"A": "b", "PYTHONDONTWRITEBYTECODE": "1"})
    assert kept == {"A": "b", "PYTHONPYCACHEPREFIX": str(Path(sys.prefix, "pycache"))}


def workers(arguments: list[str]) -> int:
    """How many processes pytest would start."""
    config = pytest.Config.fromdictargs({}, to_pytest(arguments))
    return pytest_xdist_auto_num_workers(config)

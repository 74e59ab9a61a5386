"""The tools worker's settings that are more than one value."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from workers.tools.settings import QUEUES, ToolsSettings


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> ToolsSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"JAN_{name}", value)
    nothing: Any = None
    return ToolsSettings(_env_file=nothing, data=Path("/nonexistent"))


def test_queues_and_slots_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings(monkeypatch, TOOLS_QUEUES="mcp,web_fetch", TOOLS_SLOTS="mcp=3")
    assert told.tools_queues == ["mcp", "web_fetch"]
    assert told.slots("mcp") == 3
    assert told.slots("web_fetch") == 32


def test_all_queues_are_worked_for_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch).tools_queues == list(QUEUES)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOOLS_QUEUES", "mcp,cooking"), ("TOOLS_SLOTS", "mcp"), ("TOOLS_SLOTS", "x=1")],
)
def test_what_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(ValidationError, match="web_search"):
        settings(monkeypatch, **{name: value})

"""Runs: what the log says of each generation."""

from typing import Final, get_args

from edge.openapi.conversations import PAGING
from edge.openapi.operation import KNOWN, Operation, Parameter
from schemas.api.runs import RunEvent, RunEventList, RunPage, RunStatus, RunWithAttempts
from schemas.commands import Kind

_ID: Final = Parameter("id", "path", "The run's id, or the id of its answer.", {"type": "string"})
_MOMENT: Final = {"type": "number", "minimum": 0, "maximum": 1e11}
_FILTERS: Final = (
    Parameter("status", "query", "Those that are at this.", {"enum": list(get_args(RunStatus))}),
    Parameter("kind", "query", "Those of this kind.", {"enum": list(get_args(Kind))}),
    Parameter(
        "model", "query", "Those of this model.",
        {"type": "string", "minLength": 1, "maxLength": 256},
    ),
    Parameter(
        "conversation", "query", "Those of this conversation.",
        {"type": "string", "minLength": 1, "maxLength": 64},
    ),
    Parameter(
        "parent", "query", "The steps of this response; they are in no other list.",
        {"type": "string", "minLength": 1, "maxLength": 128},
    ),
    Parameter("since", "query", "Those begun at this time (unix seconds) or later.", _MOMENT),
    Parameter("until", "query", "Those begun before this time (unix seconds).", _MOMENT),
)  # fmt: skip
_EVENTS: Final = (
    _ID,
    Parameter(
        "stream", "query", "`false` answers with a list of the facts so far.",
        {"enum": ["true", "false"]},
    ),
    Parameter(
        "starting_after", "query", "The number of the last fact received.",
        {"type": "integer", "minimum": 0, "maximum": 999999999},
    ),
    Parameter(
        "Last-Event-ID", "header", "The same, as browsers send it.",
        {"type": "string", "pattern": "^[0-9]{1,9}$"},
    ),
)  # fmt: skip

OPERATIONS: Final = (
    Operation(
        "/v1/runs", "get", "listRuns",
        "The caller's runs; with the scope `admin` everybody's.",
        RunPage, parameters=(*PAGING, *_FILTERS), errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/runs/{id}", "get", "retrieveRun", "One run, and who worked on it.",
        RunWithAttempts, parameters=(_ID,), errors=KNOWN, public=False,
    ),
    Operation(
        "/v1/runs/{id}/events", "get", "readRunEvents",
        "What the log says of a run, the request and the result included, until it has ended.",
        RunEventList, events=RunEvent, parameters=_EVENTS, errors=KNOWN, public=False,
    ),
)  # fmt: skip

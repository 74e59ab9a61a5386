"""Facts as clients read them: one line each, and no credential in it."""

import json
from typing import Any

import msgspec
import pytest

from edge.run_events import to_event, to_frame
from schemas.queries.runs import EventAt
from tests.support.runs import Told, accepted, finished, new_run, refused, started


def told(message: Told, run_id: str, number: int = 0) -> dict[str, Any]:
    verb = message.subject.split(".")[2]
    event = to_event(EventAt(7, verb, 1000.0, msgspec.Raw(message.data)), run_id, number)
    assert b"\n" not in event
    return dict(json.loads(event))


def test_each_fact_says_what_the_log_has() -> None:
    run_id = new_run()
    request = told(accepted(run_id), run_id)["request"]
    assert request["messages"][0]["content"] == "NUL \0, umlaut ä"
    assert told(started(run_id), run_id, 1)["worker"] == "inference-1"
    assert told(refused(run_id), run_id)["error"]["code"] == "queue_full"
    end = told(finished(run_id), run_id, 2)
    assert (end["type"], end["sequence_number"]) == ("run.finished", 2)
    assert (end["result"], end["usage"]["total_tokens"]) == ({"id": "x"}, 7)


def test_a_request_that_is_written_over_lines_becomes_one_line() -> None:
    run_id = new_run()
    request = b'{\r\n  "model": "m",\n\t"messages": []\n}'
    assert told(accepted(run_id, request=request), run_id)["request"] == {
        "model": "m",
        "messages": [],
    }


@pytest.mark.parametrize(
    ("request_json", "shown"),
    [
        (b'{"api_key":"sk-1"}', {"api_key": "[redacted]"}),
        (
            b'{"tools":[{"headers":{"Authorization":"Bearer x"}}]}',
            {"tools": [{"headers": {"Authorization": "[redacted]"}}]},
        ),
        # The parameter of a tool has such a name, too.
        (b'{"api_key":{"type":"string"}}', {"api_key": {"type": "string"}}),
        (b'{"content":"what is an api_key?"}', {"content": "what is an api_key?"}),
    ],
)
def test_credentials_in_a_request_are_not_told(request_json: bytes, shown: object) -> None:
    run_id = new_run()
    assert told(accepted(run_id, request=request_json), run_id)["request"] == shown


def test_what_was_erased_or_is_not_known_tells_no_more_than_that() -> None:
    run_id = new_run()
    erased = json.loads(to_event(EventAt(7, "accepted", 1000.0), run_id, 0))
    assert erased["erased"]
    newer = EventAt(8, "paused", 1001.0, msgspec.Raw(b'{"secret":1}'))
    event = to_event(newer, run_id, 1)
    assert b"secret" not in event
    assert json.loads(event)["type"] == "run.paused"
    assert to_frame(event, "paused", 1).startswith(b"id: 1\nevent: run.paused\ndata: {")
    odd = json.loads(to_event(EventAt(9, "started", 1.0, msgspec.Raw(b"[]")), run_id, 2))
    assert odd["type"] == "run.started"

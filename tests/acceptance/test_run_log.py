"""/v1/runs: what clients can read of their generations, and of nobody else's."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.server import eventually, http_client
from tests.support.sse import read_events

CHAT = "/v1/chat/completions"
RUNS = "/v1/runs"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def order(text: str, model: str = SIMULATED, **more: object) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def complete(http: httpx.Client, **more: Any) -> str:
    """Generate something; returns the run's id."""
    headers = more.pop("headers", {})
    answer = http.post(CHAT, json=order("Of the sea.", **more), headers=headers)
    return str(answer.headers["x-run-id"])


def ended(http: httpx.Client, run_id: str) -> dict[str, Any]:
    """The run, once its end has come into the database."""

    def read() -> dict[str, Any] | None:
        told: dict[str, Any] = http.get(f"{RUNS}/{run_id}").json()
        return told if told.get("finished_at") else None

    return eventually(read) or {}


@pytest.fixture
def alice(server: LaunchedServer) -> Iterator[httpx.Client]:
    """A client with a principal of its own."""
    with http_client(server.url, server.create_key("--name", "alice")) as client:
        yield client


@pytest.fixture
def bob(server: LaunchedServer) -> Iterator[httpx.Client]:
    """Another one, at the other edge."""
    with http_client(server.edges[-1], server.create_key("--name", "bob")) as client:
        yield client


@pytest.mark.requirement("log.runs.retrieve")
def test_a_run_is_told_with_its_times_its_usage_and_who_worked_on_it(alice: httpx.Client) -> None:
    before = time.time()
    run_id = complete(alice, stream=True, headers={"traceparent": TRACEPARENT})
    assert alice.get(f"{RUNS}/{run_id}").status_code == 200, "at once, without waiting"
    run = ended(alice, run_id)

    assert (run["id"], run["object"], run["status"]) == (run_id, "run", "completed")
    assert run["result_id"] == run_id.replace("run_", "chatcmpl-")
    assert (run["kind"], run["model"], run["stream"]) == ("chat", SIMULATED, True)
    assert run["trace_id"] == TRACEPARENT.split("-")[1]
    times = [run[f"{what}_at"] for what in ("created", "started", "first_frame", "finished")]
    assert times == sorted(times)
    assert before - 1 < times[0] <= times[3] < time.time() + 1
    assert run["usage"]["total_tokens"] > 0
    assert run["error"] is None
    (attempt,) = run["attempts"]
    assert (attempt["attempt"], attempt["worker"]) == (1, "inference-1")
    assert attempt["count"] == run["frames"]
    assert alice.get(f"{RUNS}/{run['result_id']}").json() == run


@pytest.mark.requirement("log.runs.retrieve")
def test_a_failed_run_says_why(alice: httpx.Client) -> None:
    answer = alice.post(CHAT, json=order("!fail 400", SCRIPTED))
    run = ended(alice, answer.headers["x-run-id"])
    assert (run["status"], run["usage"]) == ("failed", None)
    told = answer.json()["error"]
    assert run["error"] == {name: told[name] for name in ("message", "type", "code", "param")}
    assert [one["id"] for one in alice.get(RUNS, params={"status": "failed"}).json()["data"]] == [
        run["id"]
    ]


@pytest.mark.requirement("log.runs.list")
def test_runs_are_listed_filtered_and_paged(alice: httpx.Client) -> None:
    began = time.time() - 1
    runs = [complete(alice) for _ in range(3)]
    runs.append(complete(alice, model="vendor/family/model"))
    for run_id in runs:
        ended(alice, run_id)

    page = alice.get(RUNS).json()
    assert [run["id"] for run in page["data"]] == runs[::-1]
    assert (page["object"], page["has_more"], page["next_after"]) == ("list", False, None)
    assert (page["first_id"], page["last_id"]) == (runs[3], runs[0])

    first = alice.get(RUNS, params={"limit": 3, "order": "asc"}).json()
    assert [run["id"] for run in first["data"]] == runs[:3]
    assert (first["has_more"], first["next_after"]) == (True, runs[2])
    rest = alice.get(RUNS, params={"order": "asc", "after": first["next_after"]}).json()
    assert [run["id"] for run in rest["data"]] == runs[3:]
    back = alice.get(RUNS, params={"order": "asc", "before": runs[2], "limit": 1}).json()
    assert [run["id"] for run in back["data"]] == [runs[1]]

    def count(**filters: object) -> int:
        return len(alice.get(RUNS, params=filters).json()["data"])  # type: ignore[arg-type]

    assert count(model=SIMULATED) == 3
    assert count(status="completed", kind="chat") == 4
    assert count(status="failed") == count(kind="embedding") == count(conversation="conv_1") == 0
    assert (count(since=began), count(until=began), count(since=time.time() + 60)) == (4, 0, 0)


@pytest.mark.requirement("log.runs.events")
def test_the_facts_about_a_run_are_told_until_it_has_ended(alice: httpx.Client) -> None:
    asked = order("Of the sea.", SCRIPTED, stream=True)
    with alice.stream("POST", CHAT, json=asked) as answer:
        run_id = answer.headers["x-run-id"]
        with alice.stream("GET", f"{RUNS}/{run_id}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(event.data) for event in read_events(response)]
        answer.read()
    assert [event["type"] for event in events] == ["run.accepted", "run.started", "run.finished"]
    assert [event["sequence_number"] for event in events] == [0, 1, 2]
    assert events[0]["request"] == asked
    assert events[1]["worker"] == "inference-1"
    assert events[2]["status"] == "completed"
    assert events[2]["result"]["choices"][0]["message"]["content"]

    listed = alice.get(f"{RUNS}/{run_id}/events", headers={"Accept": "application/json"}).json()
    assert (listed["object"], listed["data"], listed["has_more"]) == ("list", events, False)
    rest = alice.get(f"{RUNS}/{run_id}/events", params={"stream": "false", "starting_after": 0})
    assert rest.json()["data"] == events[1:]
    with alice.stream("GET", f"{RUNS}/{run_id}/events", headers={"Last-Event-ID": "1"}) as last:
        assert [event.id for event in read_events(last)] == [2]


@pytest.mark.requirement("log.runs.secrets")
def test_no_credential_is_told(server: LaunchedServer) -> None:
    key = server.create_key("--name", "secretive")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with http_client(server.url, key) as http:
        run_id = complete(http, tools=[tool], api_key="sk-mine", extra=[{"Authorization": "mine"}])
        ended(http, run_id)
        told = http.get(f"{RUNS}/{run_id}/events", params={"stream": "false"}).text
        told += http.get(f"{RUNS}/{run_id}").text + http.get(RUNS).text
    assert key not in told
    assert "mine" not in told
    assert '"api_key":"[redacted]"' in told
    assert '"name":"f"' in told, "all else is told"


@pytest.mark.requirement("log.runs.owner")
@pytest.mark.parametrize("path", ["", "/events", "/events?stream=false"])
def test_a_run_of_somebody_else_is_as_good_as_none(
    alice: httpx.Client, bob: httpx.Client, path: str
) -> None:
    mine = complete(alice)
    ended(alice, mine)
    nobodys = mine[:-8] + ("00000000" if mine[-8:] != "00000000" else "11111111")
    answers = []
    for run_id in (mine, nobodys, mine.replace("run_", "chatcmpl-")):
        answer = bob.get(f"{RUNS}/{run_id}{path}")
        request_id = answer.headers["x-request-id"]
        bare = run_id.replace("chatcmpl-", "run_")
        told = answer.text.replace(bare, "ID").replace(request_id, "REQUEST")
        answers.append((answer.status_code, told))
    assert {status for status, _ in answers} == {404}
    assert len(set(answers)) == 1
    assert bob.get(RUNS).json()["data"] == []
    for cursor in (mine, nobodys):
        refused = bob.get(RUNS, params={"after": cursor})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


@pytest.mark.requirement("log.runs.admin")
def test_an_administrator_sees_everybodys_runs(server: LaunchedServer, alice: httpx.Client) -> None:
    run_id = complete(alice)
    whole = ended(alice, run_id)
    with http_client(server.url, server.create_key("--scope", "admin")) as admin:
        assert admin.get(f"{RUNS}/{run_id}").json() == whole
        assert run_id in [run["id"] for run in admin.get(RUNS).json()["data"]]
        events = admin.get(f"{RUNS}/{run_id}/events", params={"stream": "false"}).json()
        assert events["data"][0]["principal_id"] == whole["principal_id"]


@pytest.mark.requirement("log.runs.input")
@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "many"),
        ("order", "up"),
        ("status", "done"),
        ("kind", "song"),
        ("after", "run_01arz3ndektsv4rrffq69g5fav"),
        ("before", "x"),
        ("since", "yesterday"),
        ("until", "-1"),
        ("since", "nan"),
        ("model", ""),
        ("conversation", "c" * 65),
    ],
)
def test_a_wrong_parameter_is_named(alice: httpx.Client, param: str, value: str) -> None:
    answer = alice.get(RUNS, params={param: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.requirement("log.runs.input")
def test_wrong_parameters_of_events_are_named(alice: httpx.Client) -> None:
    run_id = complete(alice)
    for params, headers, param in (
        ({"stream": "maybe"}, {}, "stream"),
        ({"starting_after": "first"}, {}, "starting_after"),
        ({}, {"Last-Event-ID": "-1"}, "Last-Event-ID"),
    ):
        answer = alice.get(f"{RUNS}/{run_id}/events", params=params, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert alice.get(f"{RUNS}/run_x/events").status_code == 404
    assert alice.get(f"{RUNS}/nothing").status_code == 404

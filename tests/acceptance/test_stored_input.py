"""Hostile and clumsy input for everything that is stored: a 4xx that names the field, never a 5xx.

Each field of a body that is taken is given each of many values in turn, as bytes on the socket.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cli.launch import LaunchedServer
from schemas import ids
from tests.acceptance.conftest import SIMULATED
from tests.support.server import http_client

Path = tuple[str | int, ...]
JSON = {"Content-Type": "application/json"}
HOLE = "@hole@"

UNSTORABLE: dict[str, bytes] = {
    "NUL": b'"a\\u0000b"',
    "half a pair": b'"a\\ud800b"',
    "no UTF-8": b'"a\xff\xfeb"',
    "overlong": b'"\xc0\x80"',
    "too deep": b"[" * 5000 + b"]" * 5000,
    "NaN": b"NaN",
}
"""What no field can be, whatever it is for."""

ODD: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "negative": b"-1",
    "no int64": b"9223372036854775808",
    "400 digits": b"1" + b"0" * 400,
    "infinite": b"1e999",
    "empty": b'""',
    "space": b'" "',
    "controls": b'"\\u001b[31m\\r\\n\\t"',
    "70,000 characters": b'"' + b"x" * 70_000 + b'"',
    "list": b"[]",
    "2,000 texts": b"[" + b",".join([b'"x"'] * 2000) + b"]",
    "object": b"{}",
    "200 pairs": json.dumps({f"k{n}": "v" for n in range(200)}).encode(),
    "one key twice": b'{"a":"b","a":"c"}',
    "NUL in a key": b'{"a\\u0000":"b"}',
    "deep": b"[" * 900 + b"]" * 900,
    "deep objects": b'{"a":' * 200 + b"1" + b"}" * 200,
}
"""What may be fine in some fields."""


@dataclass(frozen=True)
class Things:
    """What a user has: ids by the name that they have in paths."""

    http: httpx.Client
    known: dict[str, Any]


@pytest.fixture(scope="module")
def things(server: LaunchedServer) -> Iterator[Things]:
    with http_client(server.url, server.create_key("--name", "clumsy")) as http:

        def made(path: str, **body: Any) -> Any:
            answer = http.post(f"/v1{path}", json=body)
            assert answer.is_success, answer.text
            return answer.json()

        call = {"type": "mcp_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
        said = {"type": "message", "role": "user", "content": "hello"}
        conversation = made("/conversations", items=[said, call])["id"]
        listed = http.get(f"/v1/conversations/{conversation}/items?order=asc").json()["data"]
        ask = {"model": SIMULATED, "messages": [{"role": "user", "content": "hello"}]}
        yield Things(
            http,
            {
                "conversation": conversation,
                "item": listed[0]["id"],
                "project": made("/projects", name="clumsy")["id"],
                "prompt": made("/prompts", name="clumsy", template="{{x}}")["id"],
                "completion": made("/chat/completions", store=True, **ask)["id"],
                "export": http.get(f"/v1/conversations/{conversation}/export").json(),
            },
        )


def message(**more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": "hello"} | more


def one(**item: Any) -> dict[str, Any]:
    return {"items": [item]}


VARIABLES = {"x": {"default": "d", "description": "e"}}
SAYS = [{"role": "system", "content": "{{x}}"}]
ITEMS = "/conversations/{conversation}/items"
SHORT = {"model": SIMULATED, "max_output_tokens": 16}
SERVER_TOOL = {
    "type": "mcp",
    "server_label": "s",
    "server_url": "http://127.0.0.1:8080/mcp",
    "authorization": "t",
    "headers": {"X-A": "b"},
    "allowed_tools": {"tool_names": ["a"]},
    "require_approval": {"always": {"tool_names": ["a"]}},
}
Body = Callable[[dict[str, Any]], dict[str, Any]]

BODIES: list[tuple[str, str, Body]] = [
    (
        "POST",
        "/conversations",
        lambda known: {
            "title": "t",
            "metadata": {"a": "b"},
            "items": [message()],
            "project_id": known["project"],
            "referrer": "r",
        },
    ),
    (
        "PATCH",
        "/conversations/{conversation}",
        lambda known: {"title": "t", "metadata": {"a": "b"}, "project_id": known["project"]},
    ),
    (
        "POST",
        ITEMS,
        lambda _: one(**message(content=[{"type": "input_text", "text": "x"}], status="completed")),
    ),
    ("POST", ITEMS, lambda _: one(type="function_call", call_id="c", name="f", arguments="{}")),
    ("POST", ITEMS, lambda _: one(type="function_call_output", call_id="c", output="x")),
    ("POST", ITEMS, lambda _: one(type="reasoning", summary=[{"type": "summary_text"}])),
    ("POST", ITEMS, lambda _: one(type="web_search_call", status="x", action={"query": "x"})),
    (
        "PATCH",
        ITEMS + "/by-call-id/call_1",
        lambda _: {
            "status": "completed",
            "output": "x",
            "error": "e",
            "name": "n",
            "arguments": "{}",
            "server_label": "l",
        },
    ),
    ("POST", ITEMS + "/{item}/edit", lambda _: {"content": "x", "branch": "MAIN"}),
    (
        "POST",
        "/conversations/{conversation}/branches",
        lambda known: {
            "name": ids.new_id("b-"),
            "parent_branch": "MAIN",
            "fork_from_item_id": known["item"],
            "description": "d",
        },
    ),
    (
        "POST",
        "/conversations/{conversation}/share",
        lambda known: {
            "scope": "item",
            "item_id": known["item"],
            "title": "t",
            "include_images": True,
            "branch": "MAIN",
        },
    ),
    (
        "POST",
        "/conversations/{conversation}/messages",
        lambda _: {"role": "user", "content": "x", "branch": "MAIN"},
    ),
    ("POST", "/conversations/import", lambda known: copy.deepcopy(known["export"])),
    (
        "POST",
        "/projects",
        lambda _: {"name": ids.new_id("n-"), "instruction": "i", "is_favorite": False},
    ),
    ("PATCH", "/projects/{project}", lambda _: {"name": ids.new_id("n-"), "is_archived": False}),
    (
        "POST",
        "/prompts",
        lambda known: {
            "name": ids.new_id("n-").replace("_", "-"),
            "messages": SAYS,
            "variables": VARIABLES,
            "model": SIMULATED,
            "project_id": known["project"],
            "description": "d",
        },
    ),
    ("POST", "/prompts/{prompt}", lambda _: {"template": "{{x}}", "variables": VARIABLES}),
    (
        "PATCH",
        "/users/me/settings",
        lambda _: {
            "memory_config": {"enabled": True, "max_user_items": 3, "min_similarity": 0.5},
            "profile_settings": {"base_style": "Friendly", "nick_name": "n"},
            "advanced_settings": {"web_search": True},
            "enable_trace": False,
            "preferences": {"a": 1, "selected_model": SIMULATED},
        },
    ),
    ("PATCH", "/users/me/settings/preferences", lambda _: {"preferences": {"a": 1}}),
    ("POST", "/chat/completions/{completion}", lambda _: {"metadata": {"a": "b"}}),
    (
        "POST",
        "/chat/completions",
        lambda known: {
            "model": SIMULATED,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "more": "x"}]}],
            "store": True,
            "metadata": {"a": "b"},
            "conversation": {"id": known["conversation"], "branch": "MAIN"},
            "max_tokens": 1,
        },
    ),
    (
        "POST",
        "/chat/completions",
        lambda known: {
            "model": SIMULATED,
            "prompt": {"id": known["prompt"], "variables": {"x": "y"}},
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 1,
        },
    ),
    (
        "POST",
        "/responses",
        lambda _: (
            SHORT
            | {
                "input": [message(content=[{"type": "input_text", "text": "x"}], id="msg_1")],
                "instructions": "i",
                "max_tool_calls": 2,
                "parallel_tool_calls": True,
                "temperature": 1,
                "top_p": 1,
                "presence_penalty": 0.5,
                "truncation": "auto",
                "store": True,
                "stream": False,
                "metadata": {"a": "b"},
                "service_tier": "auto",
                "prompt_cache_key": "p",
                "safety_identifier": "s",
                "include": ["file_search_call.results"],
                "reasoning": {"effort": "none", "summary": "auto"},
                "text": {"format": {"type": "json_object"}, "verbosity": "low"},
            }
        ),
    ),
    (
        "POST",
        "/responses",
        lambda known: (
            SHORT
            | {
                "input": "x",
                "conversation": {"id": known["conversation"]},
                "prompt": {"id": known["prompt"], "variables": {"x": "y"}},
                "tools": [{"type": "function", "name": "f", "description": "d", "strict": True}],
                "tool_choice": {"type": "function", "name": "f"},
            }
        ),
    ),
    (
        "POST",
        "/responses",
        lambda _: (
            SHORT
            | {
                "input": [message(), {"type": "reasoning", "summary": [{"type": "summary_text"}]}],
                "tools": [SERVER_TOOL],
            }
        ),
    ),
    (
        "POST",
        "/responses",
        lambda _: (
            SHORT
            | {
                "input": "x",
                "tools": [{"type": "file_search", "vector_store_ids": ["v"], "max_num_results": 2}],
                "background": True,
                "webhook": "https://a.example/",
            }
        ),
    ),
]
"""Requests that are taken as they are."""


def paths_of(value: Any, at: Path = ()) -> Iterator[Path]:
    """Where something stands in a body: every field, and the first of every list."""
    inner: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:1]))
    for name, part in inner:
        yield (*at, name)
        yield from paths_of(part, (*at, name))


def with_value(body: dict[str, Any], at: Path, value: bytes) -> bytes:
    """The body's bytes with something else in one place."""
    changed: Any = copy.deepcopy(body)
    inner = changed
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = HOLE
    return json.dumps(changed).encode().replace(f'"{HOLE}"'.encode(), value)


def assert_refused_well(answer: httpx.Response, body: dict[str, Any]) -> None:
    """In the envelope, and with a field that the client knows, unless it is no JSON at all."""
    error = answer.json()["error"]
    assert answer.status_code in (400, 404, 409, 413), answer.text
    assert error["type"] == "invalid_request_error"
    if error["code"] not in ("invalid_json", "not_found"):
        param = error["param"]
        assert param, answer.text
        assert param.split(".")[0].split("[")[0] in body, answer.text


@pytest.mark.requirement("input.stored")
@pytest.mark.parametrize(
    ("method", "path", "make"), BODIES, ids=[f"{method} {path}" for method, path, _ in BODIES]
)
def test_every_field_with_every_value_is_taken_or_refused_by_name(
    things: Things, method: str, path: str, make: Body
) -> None:
    url = "/v1" + path.format(**things.known)

    def send(at: Path, value: bytes) -> httpx.Response:
        sent = with_value(make(things.known), at, value)
        return things.http.request(method, url, content=sent, headers=JSON)

    assert things.http.request(method, url, json=make(things.known)).is_success
    for at in paths_of(make(things.known)):
        for name, value in (UNSTORABLE | ODD).items():
            answer = send(at, value)
            assert answer.status_code < 500, f"{at} with {name}: {answer.text}"
            if not answer.is_success:
                assert_refused_well(answer, make(things.known))
            assert not answer.is_success or name not in UNSTORABLE, f"{at} with {name}"
        named = send(at, UNSTORABLE["NUL"]).json()["error"]["param"]
        assert named is not None
        assert named.split(".")[0].split("[")[0] == at[0]
    assert things.http.request(method, url, json=make(things.known)).is_success


@pytest.mark.requirement("input.stored")
@pytest.mark.parametrize("sent", [b"null", b"[]", b'"x"', b"{", b"\xff\xfe{\0", b"{}{}", b"7"])
def test_a_body_that_is_no_object_is_refused_everywhere(things: Things, sent: bytes) -> None:
    for method, path, _ in BODIES:
        url = "/v1" + path.format(**things.known)
        answer = things.http.request(method, url, content=sent, headers=JSON)
        assert answer.status_code == 400, f"{method} {url}: {answer.text}"


QUERIES = {
    "NUL": "a%00b",
    "no UTF-8": "%ff%fe",
    "overlong": "%C0%80",
    "5,000 characters": "x" * 5000,
    "30 digits": "9" * 30,
    "infinite": "1e999",
    "no number": "nan",
    "negative": "-1",
    "other digits": "%D9%A1",
    "quotes": "%27%3B--",
    "newline": "%0d%0a",
    "empty": "",
}


def queried(http: httpx.Client) -> Iterator[tuple[str, str]]:
    """Every path that is read, with every parameter of its query."""
    for path, operations in http.get("/v1/openapi.json").json()["paths"].items():
        for told in operations.get("get", {}).get("parameters", []):
            if told["in"] == "query" and not path.endswith(("/stream", "/events")):
                yield path, told["name"].replace("[key]", "[a]")


@pytest.mark.requirement("input.stored")
def test_every_parameter_of_every_query_is_taken_or_refused_by_name(things: Things) -> None:
    begins = {
        "/v1/conversations": things.known["conversation"],
        "/v1/chat": things.known["completion"],
        "/v1/runs": things.known["completion"],
        "/v1/prompts": things.known["prompt"],
    }
    for path, name in queried(things.http):
        known = next((one for begin, one in begins.items() if path.startswith(begin)), "x")
        for what, value in QUERIES.items():
            answer = things.http.get(f"{path.format(id=known, name='MAIN')}?{name}={value}")
            told = f"{path}?{name} with {what}: {answer.text}"
            assert answer.status_code in (200, 400, 403, 404), told
            if answer.status_code == 400:
                assert answer.json()["error"]["param"].split("[")[0] == name.split("[")[0], told
            assert what != "NUL" or answer.status_code == 400, told


@pytest.mark.requirement("input.stored")
@pytest.mark.parametrize("odd", ["%00", "a%00b", "%ff", "x" * 5000, "%27%3B--", "%0a", "1e999"])
def test_no_id_in_a_path_is_a_fault_of_ours(things: Things, odd: str) -> None:
    for path, operations in things.http.get("/v1/openapi.json").json()["paths"].items():
        if "{" not in path or "swagger" in path:
            continue
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        url = path.format(**dict.fromkeys(names, odd))
        for method in operations:
            sent = {} if method == "get" else {"json": {}}
            answer = things.http.request(method.upper(), url, **sent)  # type: ignore[arg-type]
            assert 400 <= answer.status_code < 500, f"{method} {url[:80]}: {answer.text}"

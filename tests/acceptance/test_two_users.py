"""Two users: what belongs to the one answers the other exactly as if it did not exist.

Made from the table of routes. A route with ids in its path that nobody has told how to make
something for fails here: what it serves could be anybody's.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from cli.launch import LaunchedServer
from edge.app import create_routes
from schemas import ids
from tests.acceptance.conftest import SIMULATED
from tests.support.server import http_client

Ids = dict[str, str]  # a path's parameters
ITEM = {"type": "message", "role": "user", "content": "mine"}
ASK = {"model": SIMULATED, "messages": [{"role": "user", "content": "mine"}]}


@dataclass(frozen=True)
class Maker:
    """Makes something that a user owns, and ids of the same form of what does not exist."""

    make: Callable[[httpx.Client], Ids]
    missing: Callable[[], Ids]


def created(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    """Make something."""
    answer = http.post(path, json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def make_run(http: httpx.Client) -> Ids:
    """A chat completion that has ended, and is stored."""
    return {"id": created(http, "/v1/chat/completions", store=True, **ASK)["id"]}


def make_completion(http: httpx.Client) -> Ids:
    """A legacy completion that has ended."""
    body = {"model": SIMULATED, "prompt": "mine", "max_tokens": 8}
    return {"id": created(http, "/v1/completions", **body)["id"]}


def make_message(http: httpx.Client) -> Ids:
    """A message of Anthropic's form."""
    return {"id": created(http, "/v1/messages", max_tokens=16, **ASK)["id"]}


def make_response(http: httpx.Client) -> Ids:
    """A response that has ended, and is stored, with the item that it was asked."""
    response = created(http, "/v1/responses", model=SIMULATED, input="mine")["id"]
    page = http.get(f"/v1/responses/{response}/input_items").json()
    return {"id": response, "item_id": page["first_id"]}


def miss_response() -> Ids:
    """What no response has."""
    return {"id": ids.new_id("resp_"), "item_id": ids.new_id("msg_")}


def make_conversation(http: httpx.Client) -> Ids:
    """A conversation with an item, a call, a branch, a share and an export."""
    call = ids.new_id("call_")
    calling = {"type": "function_call", "call_id": call, "name": "f", "arguments": "{}"}
    conversation = created(http, "/v1/conversations", items=[ITEM, calling])["id"]
    path = f"/v1/conversations/{conversation}"
    item = http.get(f"{path}/items", params={"order": "asc"}).json()["data"][0]["id"]
    branch = created(http, f"{path}/branches", name=ids.new_id("branch-"))["name"]
    share = created(http, f"{path}/share", scope="conversation")["id"]
    export = created(http, "/v1/conversations/export?store=true")["id"]
    return {
        "id": conversation,
        "item_id": item,
        "call_id": call,
        "name": branch,
        "share_id": share,
        "export_id": export,
    }


def miss_conversation() -> Ids:
    """What no conversation has."""
    prefixes = {
        "id": "conv_",
        "item_id": "msg_",
        "call_id": "call_",
        "name": "branch-",
        "share_id": "shr_",
        "export_id": "exp_",
    }
    return {name: ids.new_id(prefix) for name, prefix in prefixes.items()}


def make_project(http: httpx.Client) -> Ids:
    """A project."""
    return {"id": created(http, "/v1/projects", name=ids.new_id("name-"))["id"]}


def make_prompt(http: httpx.Client) -> Ids:
    """A prompt."""
    body = {"name": ids.new_id("name-"), "template": "mine"}
    return {"id": created(http, "/v1/prompts", **body)["id"]}


def know_user(http: httpx.Client) -> Ids:
    """The user's own id."""
    return {"id": http.get("/auth/me").json()["id"]}


def missing(prefix: str) -> Callable[[], Ids]:
    """Make ids of this form."""
    return lambda: {"id": ids.new_id(prefix)}


MAKERS: Mapping[str, Maker] = {
    "/v1/chat/completions": Maker(make_run, missing("chatcmpl-")),
    "/v1/completions": Maker(make_completion, missing("cmpl-")),
    "/v1/messages": Maker(make_message, missing("msg_")),
    "/v1/responses": Maker(make_response, miss_response),
    "/v1/conversations": Maker(make_conversation, miss_conversation),
    "/v1/shares": Maker(make_conversation, miss_conversation),
    "/v1/runs": Maker(make_run, missing("chatcmpl-")),
    "/v1/projects": Maker(make_project, missing("proj_")),
    "/v1/prompts": Maker(make_prompt, missing("pmpt_")),
    "/v1/admin/users": Maker(know_user, missing("user_")),
}
"""By the beginning of the path."""

ADMIN = "/v1/admin"  # refused to whoever has no key for it, before anything is looked at

NOBODYS: Mapping[str, str] = {
    "/v1/models": "models are everybody's",
    "/v1/swagger": "pages",
    "/v1/public": "a share is everybody's who has its link",
    "/v1/mcp-tools": "the server's tools are everybody's",
    "/v1/admin/tools": "they are the operator's to switch",
    "/v1/containers": "only code makes files: test_a_file_that_code_makes_is_its_owners",
}
"""Paths with parameters that are not asked for here, and why."""

BODIES: Mapping[tuple[str, str], Any] = {
    ("POST", "/v1/conversations/{id}/items"): {"items": [ITEM]},
    ("PATCH", "/v1/conversations/{id}/items/by-call-id/{call_id}"): {"status": "completed"},
    ("POST", "/v1/conversations/{id}/items/{item_id}/edit"): {"content": "other"},
    ("POST", "/v1/conversations/{id}/branches"): {"name": "other"},
    ("POST", "/v1/conversations/{id}/share"): {"scope": "conversation"},
    ("POST", "/v1/conversations/{id}/messages"): {"content": "other"},
    ("POST", "/v1/conversations/{id}/runs"): ASK,
    ("POST", "/v1/conversations/{id}/items/{item_id}/regenerate"): {"model": SIMULATED},
    ("POST", "/v1/chat/completions/{id}"): {"metadata": {"a": "b"}},
    ("POST", "/v1/prompts/{id}"): {"template": "other"},
}
"""What a method needs to get as far as the question whose the thing is; else `{}` does."""


def begins(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")


def owned_routes() -> Iterator[tuple[str, str]]:
    """Every method and path that names something of a user's."""
    for route in create_routes():
        if not isinstance(route, Route) or "{" not in route.path:
            continue
        if any(begins(route.path, prefix) for prefix in NOBODYS):
            continue
        # A class that is an endpoint takes all methods unless told: HEAD is GET's.
        for method in sorted(route.methods or {"GET"}):
            yield method, route.path


def prefix_of(path: str) -> str:
    """The longest beginning of the path that has a maker."""
    found = [prefix for prefix in MAKERS if begins(path, prefix)]
    assert found, f"nobody can make what {path} is about: add it to MAKERS, or to NOBODYS"
    return max(found, key=len)


def fill(path: str, known: Ids) -> str:
    """The path with its parameters."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        assert name in known, f"nobody makes {name!r} of {path}: add it to the maker"
        return known[name]

    return re.sub(r"\{(\w+)(?::\w+)?\}", value, path)


def names_of(path: str) -> list[str]:
    return re.findall(r"\{(\w+)(?::\w+)?\}", path)


def without(answer: httpx.Response, known: Ids) -> tuple[int, str]:
    """An answer's status and body but for the ids that were asked for, and the request's own."""
    body = re.sub(r'"request_id":"[^"]*"', '"request_id":"…"', answer.text)
    for name, value in known.items():
        unique = value[-26:]  # an answer may know a run by another of its ids
        body = body.replace(unique, f"<{name}>")
    return answer.status_code, body


@dataclass(frozen=True)
class Users:
    """Two users, each with something of every kind."""

    alice: httpx.Client
    bob: httpx.Client
    hers: dict[str, Ids]
    his: dict[str, Ids]


@pytest.fixture(scope="module")
def users(server: LaunchedServer) -> Iterator[Users]:
    """Alice, whose things are asked for, and Bob, who asks."""
    keys = [server.create_key("--name", name) for name in ("alice", "bob")]
    with http_client(server.url, keys[0]) as alice, http_client(server.url, keys[1]) as bob:
        hers = {prefix: maker.make(alice) for prefix, maker in MAKERS.items()}
        his = {prefix: maker.make(bob) for prefix, maker in MAKERS.items()}
        yield Users(alice, bob, hers, his)


@pytest.mark.requirement("input.owner")
@pytest.mark.parametrize(("method", "path"), list(owned_routes()))
def test_what_is_somebody_elses_answers_as_what_does_not_exist(
    users: Users, method: str, path: str
) -> None:
    prefix = prefix_of(path)
    hers, his, nothing = users.hers[prefix], users.his[prefix], MAKERS[prefix].missing()
    names = names_of(path)

    def ask(known: Ids) -> tuple[int, str]:
        body = BODIES.get((method, path), {})
        sent = {} if method in ("GET", "HEAD") else {"json": body}
        return without(users.bob.request(method, fill(path, known), **sent), known)

    # All hers, then her parts of his things: neither may tell that they exist.
    for own in range(len(names)):
        mine = {name: his[name] for name in names[:own]}
        foreign = ask({**hers, **mine})
        absent = ask({**nothing, **mine})
        refusal = 403 if begins(path, ADMIN) else 404
        assert foreign[0] == refusal, f"{foreign}: give the request a body in BODIES?"
        assert foreign == absent

    # She still has it all.
    if "GET" in {other for other, its in owned_routes() if its == path}:
        assert users.alice.get(fill(path, hers)).status_code == 200


def in_body(**field: Any) -> Callable[[str], dict[str, Any]]:
    """A request whose body has the id where its text is `ID`."""
    told = json.dumps(field)
    return lambda one: {"json": json.loads(told.replace("ID", one))}


def in_query(param: str) -> Callable[[str], dict[str, Any]]:
    """A request whose query has the id."""
    return lambda one: {"params": {param: one}}


SAY = {"model": SIMULATED, "input": "mine"}
REFER = [{"type": "item_reference", "id": "ID"}]
FORK = in_body(name="other", fork_from_item_id="ID")
SHARE = in_body(scope="item", item_id="ID")
CONVERSATION = "/v1/conversations/{id}"
COMPLETIONS = "/v1/chat/completions"
REFERENCES: list[tuple[str, str, str, str, Callable[[str], dict[str, Any]]]] = [
    ("POST", "/v1/conversations", "/v1/projects", "id", in_body(project_id="ID")),
    ("PATCH", CONVERSATION, "/v1/projects", "id", in_body(project_id="ID")),
    ("POST", CONVERSATION + "/branches", "/v1/conversations", "item_id", FORK),
    ("POST", CONVERSATION + "/share", "/v1/conversations", "item_id", SHARE),
    ("POST", "/v1/prompts", "/v1/projects", "id", in_body(name="x", template="x", project_id="ID")),
    ("POST", "/v1/prompts/{id}", "/v1/projects", "id", in_body(project_id="ID")),
    ("POST", COMPLETIONS, "/v1/prompts", "id", in_body(model=SIMULATED, prompt={"id": "ID"})),
    ("POST", COMPLETIONS, "/v1/conversations", "id", in_body(conversation="ID", **ASK)),
    ("POST", COMPLETIONS, "/v1/conversations", "id", in_body(conversation={"id": "ID"}, **ASK)),
    ("POST", "/v1/responses", "/v1/responses", "id", in_body(previous_response_id="ID", **SAY)),
    ("POST", "/v1/responses", "/v1/conversations", "id", in_body(conversation="ID", **SAY)),
    ("POST", "/v1/responses", "/v1/responses", "item_id", in_body(**SAY | {"input": REFER})),
    ("POST", "/v1/responses", "/v1/conversations", "item_id", in_body(**SAY | {"input": REFER})),
    *[
        ("GET", path, kind, name, in_query(param))
        for path, kind, name in (
            ("/v1/conversations", "/v1/conversations", "id"),
            ("/v1/projects", "/v1/projects", "id"),
            ("/v1/prompts", "/v1/prompts", "id"),
            ("/v1/runs", "/v1/runs", "id"),
            (COMPLETIONS, COMPLETIONS, "id"),
            ("/v1/shares", "/v1/shares", "share_id"),
            ("/v1/responses/{id}/input_items", "/v1/responses", "item_id"),
            (CONVERSATION + "/items", "/v1/conversations", "item_id"),
            (CONVERSATION + "/messages", "/v1/conversations", "item_id"),
            (CONVERSATION + "/shares", "/v1/shares", "share_id"),
        )
        for param in ("after", "before")
    ],
    ("GET", "/v1/conversations", "/v1/projects", "id", in_query("project_id")),
    ("GET", "/v1/prompts", "/v1/projects", "id", in_query("project_id")),
    ("GET", "/v1/runs", "/v1/conversations", "id", in_query("conversation")),
    ("GET", "/v1/runs", "/v1/responses", "id", in_query("parent")),
]
"""Where else ids stand: the request, the kind of thing, which of its ids, how it is named."""


@pytest.mark.requirement("input.owner")
@pytest.mark.parametrize(("method", "path", "kind", "which", "named"), REFERENCES)
def test_a_reference_to_what_is_somebody_elses_is_one_to_nothing(
    users: Users,
    method: str,
    path: str,
    kind: str,
    which: str,
    named: Callable[[str], dict[str, Any]],
) -> None:
    url = fill(path, users.his[prefix_of(path)])
    hers, nothing = users.hers[kind][which], MAKERS[kind].missing()[which]
    foreign = users.bob.request(method, url, **named(hers))
    absent = users.bob.request(method, url, **named(nothing))
    assert without(foreign, {which: hers}) == without(absent, {which: nothing})
    assert foreign.status_code in (400, 404) or foreign.json()["data"] == []


LISTS = [
    "/v1/conversations",
    "/v1/conversations?search=mine",
    "/v1/shares?include_revoked=true",
    "/v1/projects",
    "/v1/prompts",
    "/v1/runs",
    COMPLETIONS,
]


@pytest.mark.requirement("input.owner")
@pytest.mark.parametrize("path", LISTS)
def test_a_list_has_ones_own_things_and_nobody_elses(users: Users, path: str) -> None:
    known = [one for kind in users.hers.values() for one in kind.values()]
    hers, his = users.alice.get(path).json()["data"], users.bob.get(path).json()["data"]
    assert hers
    assert his
    assert not {one["id"] for one in hers} & {one["id"] for one in his}
    assert not [one for one in known if one[-26:] in json.dumps(his)]


@pytest.mark.requirement("input.owner")
def test_an_export_of_all_has_nothing_of_anybody_else(users: Users) -> None:
    exported = users.bob.post("/v1/conversations/export").text
    assert exported.count("conversation.export") == len(list(exported.splitlines()))
    assert not [one for kind in users.hers.values() for one in kind.values() if one in exported]

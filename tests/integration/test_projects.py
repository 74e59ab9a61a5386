"""Projects, settings and prompts, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from schemas import writes
from schemas.commands import Command
from tests.support.postgres import PostgresServer
from tests.support.stored import Stored, error_of
from workers.persistence.changes import Effect, apply
from workers.persistence.commands import conversations, projects
from workers.persistence.database import open_engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROJECTS = "/projects"
PROMPTS = "/prompts"
SETTINGS = "/users/me/settings"
PREFERENCES = f"{SETTINGS}/preferences"


async def create(client: httpx.AsyncClient, path: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post(path, json=fields)
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


async def read(client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def names(client: httpx.AsyncClient, path: str, **query: Any) -> list[str]:
    return [thing["name"] for thing in (await read(client, path, **query))["data"]]


# Projects


@pytest.mark.requirement("projects.crud")
async def test_a_project_is_created_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    made = await client.post(PROJECTS, json={"name": "Sea", "instruction": "Answer in verse."})
    project = made.json()
    path = f"{PROJECTS}/{project['id']}"

    assert made.status_code == 201
    assert project["id"].startswith("proj_")
    assert project == {
        "id": project["id"],
        "object": "project",
        "name": "Sea",
        "instruction": "Answer in verse.",
        "is_favorite": False,
        "is_archived": False,
        "webhook": None,
        "archived_at": None,
        "created_at": project["created_at"],
        "updated_at": project["created_at"],
        "version": 1,
    }
    assert await read(client, path) == project

    changed = await client.patch(path, json={"is_archived": True, "name": "Ocean"})
    assert changed.headers["etag"] == '"2"'
    told = changed.json()
    assert (told["name"], told["is_archived"], told["instruction"]) == (
        "Ocean", True, "Answer in verse.",
    )  # fmt: skip
    assert told["archived_at"] >= project["created_at"]
    back = (await client.patch(path, json={"is_archived": False, "instruction": None})).json()
    assert (back["archived_at"], back["instruction"]) == (None, None)

    gone = await client.delete(path)
    assert gone.json() == {"id": project["id"], "object": "project.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        assert (await client.request(method, path)).status_code == 404


@pytest.mark.requirement("projects.crud")
async def test_a_project_that_somebody_else_has_changed_is_not_overwritten(
    client: httpx.AsyncClient,
) -> None:
    path = f"{PROJECTS}/{(await create(client, PROJECTS, name='Sea'))['id']}"
    read_by_both = (await client.get(path)).headers["etag"]
    first = await client.patch(path, json={"name": "A"}, headers={"If-Match": read_by_both})
    second = await client.patch(path, json={"name": "B"}, headers={"If-Match": read_by_both})
    assert first.status_code == 200
    assert error_of(second) == (409, "If-Match")


@pytest.mark.requirement("projects.names")
async def test_a_project_s_name_is_there_once(client: httpx.AsyncClient) -> None:
    sea = await create(client, PROJECTS, name="Sea")
    sky = await create(client, PROJECTS, name="Sky")
    assert error_of(await client.post(PROJECTS, json={"name": "Sea"})) == (409, "name")
    taken = await client.patch(f"{PROJECTS}/{sky['id']}", json={"name": "Sea"})
    assert error_of(taken) == (409, "name")
    own = await client.patch(f"{PROJECTS}/{sea['id']}", json={"name": "Sea", "is_favorite": True})
    assert own.status_code == 200

    await client.delete(f"{PROJECTS}/{sea['id']}")
    assert (await client.post(PROJECTS, json={"name": "Sea"})).status_code == 201


@pytest.mark.requirement("projects.names")
async def test_of_projects_of_one_name_that_are_made_at_once_one_is_made(
    client: httpx.AsyncClient,
) -> None:
    answers = await asyncio.gather(*[client.post(PROJECTS, json={"name": "Sea"}) for _ in range(8)])
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]


@pytest.mark.requirement("projects.names")
async def test_two_users_may_use_one_name(stored: Stored, client: httpx.AsyncClient) -> None:
    await create(client, PROJECTS, name="Sea")
    assert (await create(await stored.client(), PROJECTS, name="Sea"))["name"] == "Sea"


@pytest.mark.requirement("projects.crud")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"name": "x", "instruction": "x" * 32_769}, "instruction"),
        ({"name": "x", "is_favorite": 1}, "is_favorite"),
    ],
)
async def test_a_project_s_fields_are_checked(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(await client.post(PROJECTS, json=body)) == (400, param)


@pytest.mark.requirement("projects.crud")
async def test_an_instruction_may_have_32_768_characters(client: httpx.AsyncClient) -> None:
    made = await create(client, PROJECTS, name="x" * 120, instruction="é" * 32_768)
    assert len(made["instruction"]) == 32_768


@pytest.mark.requirement("projects.list")
async def test_projects_are_listed_by_what_they_are(client: httpx.AsyncClient) -> None:
    made = [await create(client, PROJECTS, name=name) for name in ("a", "b", "c", "d")]
    await client.patch(f"{PROJECTS}/{made[1]['id']}", json={"is_archived": True})
    await client.patch(f"{PROJECTS}/{made[2]['id']}", json={"is_favorite": True})
    await client.delete(f"{PROJECTS}/{made[3]['id']}")

    assert await names(client, PROJECTS) == ["c", "b", "a"]
    assert await names(client, PROJECTS, archived="true") == ["b"]
    assert await names(client, PROJECTS, archived="false") == ["c", "a"]
    assert await names(client, PROJECTS, favorite="true") == ["c"]
    first = await read(client, PROJECTS, limit=2, order="asc")
    assert (first["has_more"], first["next_after"]) == (True, made[1]["id"])
    assert await names(client, PROJECTS, order="asc", after=first["next_after"]) == ["c"]
    wrong = await client.get(PROJECTS, params={"archived": "yes"})
    assert error_of(wrong) == (400, "archived")


@pytest.mark.requirement("projects.conversations")
async def test_a_deleted_project_s_conversations_stay_without_one(
    client: httpx.AsyncClient,
) -> None:
    project = await create(client, PROJECTS, name="Sea")
    talk = await create(client, "/conversations", project_id=project["id"])
    assert talk["project_id"] == project["id"]
    listed = await read(client, "/conversations", project_id=project["id"])
    assert [found["id"] for found in listed["data"]] == [talk["id"]]

    await client.delete(f"{PROJECTS}/{project['id']}")

    path = f"/conversations/{talk['id']}"
    assert (await read(client, path))["project_id"] is None
    assert [one["project_id"] for one in (await read(client, "/conversations"))["data"]] == [None]
    assert (await read(client, "/conversations", project_id=project["id"]))["data"] == []
    changed = await client.patch(path, json={"title": "Still here"})
    assert (changed.json()["title"], changed.json()["project_id"]) == ("Still here", None)
    again = await client.patch(path, json={"project_id": project["id"]})
    assert error_of(again) == (400, "project_id")


@pytest.mark.requirement("projects.instruction")
async def test_a_conversation_keeps_the_instruction_that_it_came_in_with(
    postgres: PostgresServer,
) -> None:
    async with (
        postgres.database() as url,
        closing_engine(url) as engine,
        engine.connect() as connection,
    ):

        async def carry_out(decide: Any, body: Any) -> Effect:
            effect: Effect = await decide(connection, command(), body)
            await apply(connection, effect.rows)
            return effect

        made = await carry_out(projects.create, writes.CreateProject("Sea", "In verse."))
        project = made.entity
        into = writes.CreateConversation(project_id=project)
        talk = await carry_out(conversations.create, into)
        await carry_out(projects.update, writes.UpdateProject(project, instruction="In prose."))
        later = await carry_out(conversations.create, into)
        kept = await carry_out(
            conversations.update, writes.UpdateConversation(talk.entity, title="x")
        )
        await carry_out(projects.delete, writes.DeleteProject(project))
        left = await carry_out(
            conversations.update, writes.UpdateConversation(talk.entity, title="y")
        )
        out = await carry_out(
            conversations.update, writes.UpdateConversation(talk.entity, project_id=None)
        )

    assert [instruction_of(effect) for effect in (talk, later, kept, left, out)] == [
        "In verse.", "In prose.", "In verse.", "In verse.", None,
    ]  # fmt: skip


def command() -> Command:
    return Command("cmd_1", "user_1", 1000.0, 2000.0, msgspec.Raw(b"{}"))


def instruction_of(effect: Effect) -> str | None:
    instruction: str | None = effect.rows["conversations"][0]["instruction"]
    return instruction


@asynccontextmanager
async def closing_engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = open_engine(url, pool_size=1)
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.mark.requirement("input.unicode")
@pytest.mark.parametrize(
    "path",
    [
        "/projects/%00",
        "/projects?after=%00",
        "/prompts?project_id=%00",
        "/prompts/%00/versions",
        "/conversations?project_id=%00",
        "/conversations?before=a%00b",
    ],
)
async def test_nul_in_an_address_is_the_client_s_fault_not_the_database_s(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(path)).status_code == 400


@pytest.mark.requirement("input.unicode")
async def test_nul_in_an_address_of_a_write_is_refused_at_once(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/projects/%00")).status_code == 400


# Settings


@pytest.mark.requirement("settings.defaults")
async def test_who_has_set_nothing_has_the_defaults(client: httpx.AsyncClient) -> None:
    told = await read(client, SETTINGS)
    assert told["id"] == told["user_id"]
    assert told["id"].startswith("user_")
    del told["id"], told["user_id"]
    assert told == {
        "object": "user.settings",
        "memory_config": {
            "enabled": True,
            "observe_enabled": True,
            "inject_user_core": True,
            "inject_semantic": True,
            "inject_episodic": False,
            "max_user_items": 3,
            "max_project_items": 5,
            "max_episodic_items": 3,
            "min_similarity": 0.75,
        },
        "profile_settings": {
            "base_style": "Friendly",
            "custom_instructions": "",
            "nick_name": "",
            "occupation": "",
            "more_about_you": "",
        },
        "advanced_settings": {"web_search": False, "code_enabled": False},
        "enable_trace": False,
        "enable_tools": True,
        "preferences": {
            "selected_model": "jan-tiny",
            "enable_deep_research": False,
            "enable_thinking": True,
            "enable_search": True,
            "enable_browser": False,
        },
        "server_capabilities": {
            "image_generation_enabled": False,
            "memory_enabled": False,
            "web_search_enabled": False,
            "code_enabled": False,
            "tools_enabled": True,
            "vision_enabled": False,
            "reasoning_enabled": False,
        },
        "updated_at": None,
        "version": 0,
    }


@pytest.mark.requirement("settings.merge")
async def test_changes_are_merged_into_what_is_set(client: httpx.AsyncClient) -> None:
    first = {
        "memory_config": {"enabled": False, "max_user_items": 20, "min_similarity": 1},
        "profile_settings": {"nickname": "Jo", "base_style": "Concise"},
        "enable_trace": True,
    }
    second = {
        "memory_config": {"max_user_items": 0},
        "profile_settings": {"occupation": "sailor"},
        "preferences": {"selected_model": "m", "theme": {"dark": None, "size": [1, 2]}},
    }
    await client.patch(SETTINGS, json=first)
    answer = await client.patch(SETTINGS, json=second)
    told = answer.json()
    assert answer.status_code == 200
    assert told == await read(client, SETTINGS)
    assert told["version"] == 2
    memory = told["memory_config"]
    assert (memory["enabled"], memory["max_user_items"], memory["min_similarity"]) == (False, 0, 1)
    assert memory["max_project_items"] == 5
    profile = told["profile_settings"]
    assert (profile["nick_name"], profile["base_style"], profile["occupation"]) == (
        "Jo", "Concise", "sailor",
    )  # fmt: skip
    assert told["enable_trace"] is True
    assert told["preferences"]["theme"] == {"dark": None, "size": [1, 2]}

    undone = {"memory_config": None, "profile_settings": {"base_style": None}}
    told = (await client.patch(SETTINGS, json=undone)).json()
    assert told["memory_config"]["enabled"] is True
    assert told["profile_settings"]["base_style"] == "Friendly"
    assert told["profile_settings"]["nick_name"] == "Jo"


@pytest.mark.requirement("settings.checked")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"memory_config": {"max_user_items": 21}}, "memory_config.max_user_items"),
        ({"memory_config": {"max_project_items": 51}}, "memory_config.max_project_items"),
        ({"memory_config": {"max_episodic_items": -1}}, "memory_config.max_episodic_items"),
        ({"memory_config": {"min_similarity": 1.01}}, "memory_config.min_similarity"),
        ({"memory_config": {"enabled": "yes"}}, "memory_config.enabled"),
        ({"profile_settings": {"base_style": "Rude"}}, "profile_settings.base_style"),
        (
            {"profile_settings": {"nickname": "a", "nick_name": "b"}},
            "profile_settings.nickname",
        ),
        ({"memory_config": {"maximum": 1}}, "memory_config.maximum"),
        ({"server_capabilities": {}}, "server_capabilities"),
        ({"enable_tool": True}, "enable_tool"),
        ({"preferences": {"enable_search": "yes"}}, "preferences.enable_search"),
    ],
)
async def test_settings_are_checked(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(await client.patch(SETTINGS, json=body)) == (400, param)
    assert (await read(client, SETTINGS))["version"] == 0


@pytest.mark.requirement("settings.concurrent")
async def test_changes_of_different_fields_at_once_all_survive(client: httpx.AsyncClient) -> None:
    patches = [
        *[{"preferences": {f"key{number}": number}} for number in range(12)],
        *[{"memory_config": {name: False}} for name in ("enabled", "observe_enabled")],
        {"enable_trace": True},
    ]
    answers = await asyncio.gather(*[client.patch(SETTINGS, json=patch) for patch in patches])
    assert {answer.status_code for answer in answers} == {200}
    told = await read(client, SETTINGS)
    assert [told["preferences"].get(f"key{number}") for number in range(12)] == list(range(12))
    assert not told["memory_config"]["enabled"]
    assert not told["memory_config"]["observe_enabled"]
    assert told["enable_trace"]


@pytest.mark.requirement("settings.preferences")
async def test_preferences_are_merged_and_a_null_takes_one_away(
    client: httpx.AsyncClient,
) -> None:
    await client.patch(
        PREFERENCES, json={"preferences": {"a": 1, "b": "x", "enable_search": False}}
    )
    told = await client.patch(PREFERENCES, json={"preferences": {"a": None, "c": [True]}})
    expected = {
        "preferences": {
            "selected_model": "jan-tiny",
            "enable_deep_research": False,
            "enable_thinking": True,
            "enable_search": False,
            "enable_browser": False,
            "b": "x",
            "c": [True],
        }
    }
    assert told.json() == expected
    assert await read(client, PREFERENCES) == expected
    assert (await read(client, SETTINGS))["preferences"] == expected["preferences"]
    back = await client.patch(PREFERENCES, json={"preferences": {"enable_search": None}})
    assert back.json()["preferences"]["enable_search"] is True
    assert error_of(await client.patch(PREFERENCES, json={"a": 1})) == (400, "a")
    assert error_of(await client.patch(PREFERENCES, json={})) == (400, "preferences")


@pytest.mark.requirement("settings.preferences")
async def test_preferences_are_bounded_in_number_and_size(client: httpx.AsyncClient) -> None:
    full = {f"key{number}": number for number in range(64)}
    assert (await client.patch(PREFERENCES, json={"preferences": full})).status_code == 200
    more = await client.patch(PREFERENCES, json={"preferences": {"one": 1}})
    assert error_of(more) == (400, "preferences")
    swap = await client.patch(PREFERENCES, json={"preferences": {"key0": None, "one": 1}})
    assert swap.status_code == 200
    large = await client.patch(PREFERENCES, json={"preferences": {"one": "x" * (16 * 1024)}})
    assert error_of(large) == (400, "preferences")
    assert (await read(client, PREFERENCES))["preferences"]["one"] == 1


# Prompts


@pytest.mark.requirement("prompts.crud")
async def test_a_prompt_is_created_read_listed_and_deleted(client: httpx.AsyncClient) -> None:
    project = await create(client, PROJECTS, name="Sea")
    messages = [
        {"role": "system", "content": "Answer {{ tone }}."},
        {"role": "user", "content": [{"type": "text", "text": "Of {{topic}}: {{ 1 }} {{tone}}"}]},
    ]
    made = await client.post(
        PROMPTS,
        json={
            "name": "sea-talk",
            "messages": messages,
            "variables": {"tone": {"default": "kindly", "description": "How"}},
            "model": "m",
            "project_id": project["id"],
            "description": "About the sea",
        },
    )
    prompt = made.json()
    assert made.status_code == 201
    assert made.headers["etag"] == '"1"'
    assert prompt["id"].startswith("pmpt_")
    assert prompt == {
        "id": prompt["id"],
        "object": "prompt",
        "name": "sea-talk",
        "version": 1,
        "description": "About the sea",
        "project_id": project["id"],
        "model": "m",
        "messages": messages,
        "variables": {"tone": {"default": "kindly", "description": "How"}, "topic": {}},
        "created_at": prompt["created_at"],
    }
    short = await create(client, PROMPTS, name="short", template="Be brief about {{x}}.")
    assert short["messages"] == [{"role": "system", "content": "Be brief about {{x}}."}]

    for known_as in (prompt["id"], "sea-talk"):
        assert await read(client, f"{PROMPTS}/{known_as}") == prompt
    assert await names(client, PROMPTS) == ["short", "sea-talk"]
    assert await names(client, PROMPTS, project_id=project["id"]) == ["sea-talk"]
    assert await names(client, PROMPTS, model="m") == ["sea-talk"]
    assert await names(client, PROMPTS, order="asc", after=prompt["id"]) == ["short"]

    await client.delete(f"{PROJECTS}/{project['id']}")
    assert (await read(client, f"{PROMPTS}/sea-talk"))["project_id"] is None
    assert await names(client, PROMPTS, project_id=project["id"]) == []

    gone = await client.delete(f"{PROMPTS}/sea-talk")
    assert gone.json() == {"id": prompt["id"], "object": "prompt.deleted", "deleted": True}
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{PROMPTS}/{prompt['id']}")).status_code == 404
    assert await names(client, PROMPTS) == ["short"]
    assert (await create(client, PROMPTS, name="sea-talk", template="x"))["version"] == 1


@pytest.mark.requirement("prompts.versions")
async def test_a_new_version_leaves_the_old_ones_as_they_are(client: httpx.AsyncClient) -> None:
    first = await create(
        client,
        PROMPTS,
        name="greeting",
        template="Greet {{name}} {{how}}.",
        variables={"how": {"default": "warmly"}},
        model="m",
    )
    path = f"{PROMPTS}/greeting"
    second = await create(client, path, template="Greet {{name}} {{how}}, {{when}}.")
    third = await create(client, path, model=None, description="of anybody")
    assert [first["version"], second["version"], third["version"]] == [1, 2, 3]
    assert second["variables"] == {"how": {"default": "warmly"}, "name": {}, "when": {}}
    assert (second["model"], third["model"]) == ("m", None)
    assert third["messages"] == second["messages"]

    assert await read(client, path) == third
    assert await read(client, path, version=1) == first
    assert error_of(await client.get(path, params={"version": 4})) == (404, "version")
    versions = await read(client, f"{path}/versions", limit=2)
    assert versions["data"] == [third, second]
    rest = await read(client, f"{path}/versions", after=versions["next_after"])
    assert rest["data"] == [first]
    assert [one["version"] for one in (await read(client, PROMPTS))["data"]] == [3]

    stale = await client.post(path, json={"template": "x"}, headers={"If-Match": '"2"'})
    assert error_of(stale) == (409, "If-Match")


@pytest.mark.requirement("prompts.versions")
async def test_versions_that_are_made_at_once_get_different_numbers(
    client: httpx.AsyncClient,
) -> None:
    await create(client, PROMPTS, name="one", template="1")
    made = await asyncio.gather(
        *[create(client, f"{PROMPTS}/one", template=f"{number}") for number in range(6)]
    )
    assert sorted(prompt["version"] for prompt in made) == [2, 3, 4, 5, 6, 7]


@pytest.mark.requirement("prompts.crud")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"template": "x"}, "name"),
        ({"name": "With Space", "template": "x"}, "name"),
        ({"name": "pmpt_1", "template": "x"}, "name"),
        ({"name": "x"}, "messages"),
        ({"name": "x", "messages": []}, "messages"),
        ({"name": "x", "messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"name": "x", "template": "x", "messages": [{"role": "user", "content": "x"}]},
            "template",
        ),
        ({"name": "x", "template": "{{a}}", "variables": {"b": {}}}, "variables.b"),
        ({"name": "x", "template": "x", "project_id": "proj_1"}, "project_id"),
        ({"name": "x", "template": "x" * 300_000}, "template"),
    ],
)
async def test_a_prompt_s_fields_are_checked(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await client.post(PROMPTS, json=body)
    assert error_of(answer) == (400, param), answer.text


@pytest.mark.requirement("prompts.crud")
async def test_a_prompt_s_name_is_there_once(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *[client.post(PROMPTS, json={"name": "one", "template": "x"}) for _ in range(6)]
    )
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 5]
    assert error_of(await client.post(PROMPTS, json={"name": "one", "template": "x"})) == (
        409, "name",
    )  # fmt: skip

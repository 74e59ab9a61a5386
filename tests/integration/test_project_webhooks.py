"""A project's webhook: set, shown without its secret, changed and taken away."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from bus import open_bus
from schemas import subjects
from tests.support.postgres import PostgresServer
from tests.support.stored import Stored, running_stored

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROJECTS = "/projects"
URL = "https://example.com/hook"
OTHER = "https://example.org/hook"


def secret(size: int = 32) -> str:
    return "whsec_" + base64.b64encode(bytes(size)).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stored]:
    folder = tmp_path_factory.mktemp("webhooks")
    async with running_stored(postgres, folder, sealing_key="a key") as stored:
        yield stored


async def changed(client: httpx.AsyncClient, path: str, webhook: Any) -> Any:
    answer = await client.patch(path, json={"webhook": webhook})
    assert answer.status_code == 200, answer.text
    assert (await client.get(path)).json() == answer.json()
    return answer.json()["webhook"]


@pytest.mark.requirement("projects.webhook")
async def test_a_webhook_is_set_changed_and_taken_away(client: httpx.AsyncClient) -> None:
    body = {"name": "Sea", "webhook": {"url": URL, "secret": secret()}}
    made = await client.post(PROJECTS, json=body)
    assert secret() not in made.text
    path = f"{PROJECTS}/{made.json()['id']}"
    assert made.json()["webhook"] == {"url": URL, "has_secret": True}

    assert await changed(client, path, {"url": OTHER}) == {"url": OTHER, "has_secret": True}
    assert await changed(client, path, {"secret": None}) == {"url": OTHER, "has_secret": False}
    assert await changed(client, path, {"secret": secret()}) == {"url": OTHER, "has_secret": True}
    untouched = (await client.patch(path, json={"is_archived": True})).json()
    assert untouched["webhook"] == {"url": OTHER, "has_secret": True}
    assert (await client.get(PROJECTS)).json()["data"] == [untouched]
    assert await changed(client, path, None) is None
    assert await changed(client, path, {"url": URL}) == {"url": URL, "has_secret": False}


@pytest.mark.requirement("projects.webhook")
async def test_the_log_has_a_secret_only_sealed(stored: Stored, client: httpx.AsyncClient) -> None:
    body = {"name": "Sea", "webhook": {"url": URL, "secret": secret()}}
    project = (await client.post(PROJECTS, json=body)).json()["id"]
    async with open_bus(stored.nats.url("cli"), name="looking") as bus:
        found = bus.read_subject(subjects.EVENTS, "events.project.>")
        told = [fact.data.decode() async for fact in found if project.encode() in fact.data]
    assert len(told) == 1
    assert '"webhook_secret":"sealed:' in told[0]
    assert secret() not in told[0]


@pytest.mark.requirement("projects.webhook")
async def test_a_project_with_a_secret_is_made_once_under_one_idempotency_key(
    client: httpx.AsyncClient,
) -> None:
    body = {"name": "Sea", "webhook": {"url": URL, "secret": secret()}}
    headers = {"Idempotency-Key": "once"}
    first = await client.post(PROJECTS, json=body, headers=headers)
    again = await client.post(PROJECTS, json=body, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    body["webhook"] = {"url": URL, "secret": secret(64)}
    assert (await client.post(PROJECTS, json=body, headers=headers)).status_code == 409


@pytest.mark.requirement("projects.webhook")
@pytest.mark.parametrize(
    ("webhook", "param"),
    [
        ("https://example.com/", "webhook"),
        ({"secret": secret()}, "webhook.url"),
        ({"url": None}, "webhook.url"),
        ({"url": "http://10.0.0.1/"}, "webhook.url"),
        ({"url": "https://example.com/" + "x" * 2048}, "webhook.url"),
        ({"url": URL, "secret": 5}, "webhook.secret"),
        ({"url": URL, "secret": ""}, "webhook.secret"),
        ({"url": URL, "secret": secret().removeprefix("whsec_")}, "webhook.secret"),
        ({"url": URL, "secret": secret() + "!"}, "webhook.secret"),
        ({"url": URL, "secret": "whsec_ü"}, "webhook.secret"),
        ({"url": URL, "secret": secret(23)}, "webhook.secret"),
        ({"url": URL, "secret": secret(65)}, "webhook.secret"),
    ],
)
async def test_what_is_no_webhook_is_refused_with_its_field(
    client: httpx.AsyncClient, webhook: Any, param: str
) -> None:
    made = await client.post(PROJECTS, json={"name": "Sea", "webhook": webhook})
    plain = (await client.post(PROJECTS, json={"name": "Sky"})).json()
    patched = await client.patch(f"{PROJECTS}/{plain['id']}", json={"webhook": webhook})
    for refused in (made, patched):
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == param
    assert (await client.get(f"{PROJECTS}/{plain['id']}")).json() == plain


@pytest.mark.requirement("projects.webhook")
async def test_a_project_of_somebody_else_gets_no_webhook(
    stored: Stored, client: httpx.AsyncClient
) -> None:
    project = (await client.post(PROJECTS, json={"name": "Sea"})).json()
    stranger = await stored.client()
    refused = await stranger.patch(
        f"{PROJECTS}/{project['id']}", json={"webhook": {"url": URL, "secret": secret()}}
    )
    assert refused.status_code == 404

"""/v1/users/me/settings: what a user has set, completed by what this server is."""

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.catalogue import Models
from edge.requests import answer_json, read_body, stored_of
from edge.state import state_of
from schemas import writes
from schemas.api import settings as api
from schemas.commands import encode
from schemas.queries.settings import AskSettings

NOUN: Final = "settings"

_decode = msgspec.json.Decoder(api.StoredSettings).decode


async def retrieve_settings(request: Request) -> Response:
    """GET /v1/users/me/settings."""
    return _answer(request, await _ask(request))


async def update_settings(request: Request) -> Response:
    """PATCH /v1/users/me/settings: merged into what is set; null: back to the default."""
    return _answer(request, await _merge(request, await read_body(request, api.decode_settings)))


async def retrieve_preferences(request: Request) -> Response:
    """GET /v1/users/me/settings/preferences."""
    return _answer_preferences(request, await _ask(request))


async def update_preferences(request: Request) -> Response:
    """PATCH /v1/users/me/settings/preferences: merged; a null takes its key away."""
    patch = await read_body(request, api.decode_preferences)
    return _answer_preferences(request, await _merge(request, patch))


async def _ask(request: Request) -> bytes:
    stored, caller = stored_of(request)
    return await stored.ask(NOUN, "get", AskSettings(principal=caller.principal))


async def _merge(request: Request, patch: api.Patch) -> bytes:
    stored, caller = stored_of(request)
    return await stored.command(NOUN, "merge", caller, writes.MergeSettings(patch))


def _answer(request: Request, told: bytes) -> Response:
    known = _decode(told)
    models = state_of(request.scope)["models"]
    principal = stored_of(request)[1].principal
    settings = api.Settings(
        id=principal,
        user_id=principal,
        memory_config=known.settings.memory_config,
        profile_settings=known.settings.profile_settings,
        advanced_settings=known.settings.advanced_settings,
        enable_trace=known.settings.enable_trace,
        enable_tools=known.settings.enable_tools,
        preferences=_with_defaults(known.settings.preferences, models),
        server_capabilities=_capabilities(models),
        updated_at=int(known.updated_at) if known.updated_at is not None else None,
        version=known.version,
    )
    return answer_json(encode(settings))


def _answer_preferences(request: Request, told: bytes) -> Response:
    models = state_of(request.scope)["models"]
    preferences = _with_defaults(_decode(told).settings.preferences, models)
    return answer_json(encode(api.Preferences(preferences)))


def _with_defaults(preferences: dict[str, Any], models: Models) -> dict[str, Any]:
    return api.default_preferences(models.first_chat()) | preferences


def _capabilities(models: Models) -> api.ServerCapabilities:
    """What the models that are served can do. No part of this server makes images or remembers."""
    able = models.capabilities()
    return api.ServerCapabilities(
        tools_enabled="tools" in able,
        vision_enabled="vision" in able,
        reasoning_enabled="reasoning" in able,
    )


_PATH: Final = "/v1/users/me/settings"
ROUTES: list[BaseRoute] = [
    Route(_PATH, retrieve_settings, methods=["GET"]),
    Route(_PATH, update_settings, methods=["PATCH"]),
    Route(f"{_PATH}/preferences", retrieve_preferences, methods=["GET"]),
    Route(f"{_PATH}/preferences", update_preferences, methods=["PATCH"]),
]

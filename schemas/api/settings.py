"""A user's settings: what a client shows and keeps for its user, in the form of Jan's clients.

Only what a user has set is stored. What is not set has its default, and follows it when a later
release or another catalogue changes it.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.decoding import decoder
from schemas.errors import InvalidRequest

MAX_PREFERENCES: Final = 64  # keys
MAX_PREFERENCES_BYTES: Final = 16 * 1024  # of all of them as JSON

BaseStyle = Literal["Concise", "Friendly", "Professional"]
FewItems = Annotated[int, Meta(ge=0, le=20)]
SomeItems = Annotated[int, Meta(ge=0, le=50)]
Similarity = Annotated[float, Meta(ge=0, le=1)]
LongText = Annotated[str, Meta(max_length=32_768)]
ShortText = Annotated[str, Meta(max_length=256)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]


class MemoryConfig(Struct):
    """What may be remembered, and how much of it goes into a prompt."""

    enabled: bool = True
    observe_enabled: bool = True
    inject_user_core: bool = True
    inject_semantic: bool = True
    inject_episodic: bool = False
    max_user_items: int = 3
    max_project_items: int = 5
    max_episodic_items: int = 3
    min_similarity: float = 0.75


class ProfileSettings(Struct):
    """Who the user is, and how they want to be answered."""

    base_style: BaseStyle = "Friendly"
    custom_instructions: str = ""
    nick_name: str = ""
    occupation: str = ""
    more_about_you: str = ""


class AdvancedSettings(Struct):
    """What costs privacy or needs trust."""

    web_search: bool = False
    code_enabled: bool = False


class ServerCapabilities(Struct):
    """What this server has now, whatever a user has set."""

    image_generation_enabled: bool = False
    memory_enabled: bool = False
    web_search_enabled: bool = False
    code_enabled: bool = False
    tools_enabled: bool = False
    vision_enabled: bool = False
    reasoning_enabled: bool = False


class Settings(Struct, kw_only=True):
    """A user's settings as they are served. `version` counts their changes; 0: nothing is set."""

    id: str
    object: str = "user.settings"
    user_id: str
    memory_config: MemoryConfig
    profile_settings: ProfileSettings
    advanced_settings: AdvancedSettings
    enable_trace: bool
    enable_tools: bool
    preferences: dict[str, Any]
    server_capabilities: ServerCapabilities
    updated_at: int | None
    version: int


class Preferences(Struct):
    """The preferences alone."""

    preferences: dict[str, Any]


class Stored(Struct, kw_only=True):
    """What a persistence worker knows of a user's settings: only what was set."""

    memory_config: MemoryConfig = msgspec.field(default_factory=MemoryConfig)
    profile_settings: ProfileSettings = msgspec.field(default_factory=ProfileSettings)
    advanced_settings: AdvancedSettings = msgspec.field(default_factory=AdvancedSettings)
    enable_trace: bool = False
    enable_tools: bool = True
    preferences: dict[str, Any] = {}


class StoredSettings(Struct):
    """The answer about a user's settings, before the edge adds what it knows."""

    settings: Stored
    version: int = 0
    updated_at: float | None = None


class MemoryPatch(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Changes of MemoryConfig; null: back to the default."""

    enabled: bool | UnsetType | None = UNSET
    observe_enabled: bool | UnsetType | None = UNSET
    inject_user_core: bool | UnsetType | None = UNSET
    inject_semantic: bool | UnsetType | None = UNSET
    inject_episodic: bool | UnsetType | None = UNSET
    max_user_items: FewItems | UnsetType | None = UNSET
    max_project_items: SomeItems | UnsetType | None = UNSET
    max_episodic_items: FewItems | UnsetType | None = UNSET
    min_similarity: Similarity | UnsetType | None = UNSET


class ProfilePatch(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Changes of ProfileSettings; null: back to the default. `nickname` is `nick_name`."""

    base_style: BaseStyle | UnsetType | None = UNSET
    custom_instructions: LongText | UnsetType | None = UNSET
    nick_name: ShortText | UnsetType | None = UNSET
    nickname: ShortText | UnsetType | None = UNSET
    occupation: ShortText | UnsetType | None = UNSET
    more_about_you: LongText | UnsetType | None = UNSET


class AdvancedPatch(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Changes of AdvancedSettings; null: back to the default."""

    web_search: bool | UnsetType | None = UNSET
    code_enabled: bool | UnsetType | None = UNSET


class UpdateSettings(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """PATCH /v1/users/me/settings: merged into what is set; null: back to the default."""

    memory_config: MemoryPatch | UnsetType | None = UNSET
    profile_settings: ProfilePatch | UnsetType | None = UNSET
    advanced_settings: AdvancedPatch | UnsetType | None = UNSET
    enable_trace: bool | UnsetType | None = UNSET
    enable_tools: bool | UnsetType | None = UNSET
    preferences: dict[Key, Any] | UnsetType | None = UNSET


class UpdatePreferences(Struct, forbid_unknown_fields=True):
    """PATCH /v1/users/me/settings/preferences: merged; a null takes its key away."""

    preferences: dict[Key, Any]


class _KnownPreferences(Struct):
    """Those of the preferences that clients share; there may be any others."""

    selected_model: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType | None = UNSET
    enable_deep_research: bool | UnsetType | None = UNSET
    enable_thinking: bool | UnsetType | None = UNSET
    enable_search: bool | UnsetType | None = UNSET
    enable_browser: bool | UnsetType | None = UNSET


class _Known(Struct):
    preferences: _KnownPreferences | UnsetType | None = UNSET


_decode_settings = decoder(UpdateSettings)
_decode_preferences = decoder(UpdatePreferences)
_check_known = decoder(_Known)

Patch = dict[str, Any]


def decode_settings(body: bytes) -> Patch:
    """Check changes of settings; return them as what is merged. Raises InvalidRequest."""
    given = _decode_settings(body)
    _check_known(body)
    profile = given.profile_settings
    if isinstance(profile, ProfilePatch):
        _take_alias(profile)
    patch: Patch = msgspec.to_builtins(given)
    return patch


def decode_preferences(body: bytes) -> Patch:
    """Check changes of preferences; return them as what is merged. Raises InvalidRequest."""
    given = _decode_preferences(body)
    _check_known(body)
    return {"preferences": given.preferences}


def merge(known: Patch, patch: Patch) -> Patch:
    """Merge changes into what is set: objects into objects, a null takes away (RFC 7396).

    A preference is one value, whatever it is: it is not merged into.
    """
    merged = dict(known)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = _merge_flat(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged


def require_bounded(preferences: dict[str, Any]) -> None:
    """Refuse more preferences than are kept. Raises InvalidRequest."""
    if len(preferences) > MAX_PREFERENCES:
        raise InvalidRequest(
            f"'preferences': there can be {MAX_PREFERENCES} of them, not {len(preferences)}",
            param="preferences",
        )
    size = len(msgspec.json.encode(preferences))
    if size > MAX_PREFERENCES_BYTES:
        raise InvalidRequest(
            f"'preferences' can have {MAX_PREFERENCES_BYTES} bytes in all, not {size}",
            param="preferences",
        )


def default_preferences(first_model: str | None) -> dict[str, Any]:
    """The preferences of who has set none."""
    return {
        "selected_model": first_model,
        "enable_deep_research": False,
        "enable_thinking": True,
        "enable_search": True,
        "enable_browser": False,
    }


def _merge_flat(known: Patch, patch: Patch) -> Patch:
    merged = {**known, **patch}
    return {name: value for name, value in merged.items() if value is not None}


def _take_alias(profile: ProfilePatch) -> None:
    """Take `nickname` for `nick_name`. Raises InvalidRequest if both are given and differ."""
    if profile.nickname is UNSET:
        return
    if profile.nick_name not in (UNSET, profile.nickname):
        raise InvalidRequest(
            "'profile_settings.nickname' is another name of 'nick_name': give one of them",
            param="profile_settings.nickname",
        )
    profile.nick_name, profile.nickname = profile.nickname, UNSET

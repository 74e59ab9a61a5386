"""Guests, tokens and who one is."""

from typing import Literal

from msgspec import Struct

from schemas.api.decoding import decoder


class TokenPair(Struct, frozen=True):
    """An access token for `Authorization: Bearer`, and the refresh token that renews it once."""

    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    expires_at: int


class Guest(Struct, frozen=True):
    """A new guest with its tokens."""

    user_id: str
    principal_id: str
    username: str
    access_token: str
    refresh_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    expires_at: int


class RefreshRequest(Struct, frozen=True):
    """The body of POST /auth/refresh-token."""

    refresh_token: str


class LogoutRequest(Struct, frozen=True):
    """The body of POST /auth/logout; without it the access token says which session ends."""

    refresh_token: str | None = None


class LoggedOut(Struct, frozen=True):
    """The session is over."""

    status: Literal["logged out"] = "logged out"


class Me(Struct, frozen=True):
    """Who the caller is, and how it came in."""

    id: str
    username: str
    subject: str
    auth_method: Literal["jwt", "api_key"]
    name: str
    roles: list[str]
    scopes: list[str]
    is_guest: bool
    is_admin: bool


decode_refresh = decoder(RefreshRequest)
decode_logout = decoder(LogoutRequest)

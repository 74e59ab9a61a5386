"""What a principal has stored, as a whole."""

from typing import Final

from msgspec import Struct

from edge.openapi.operation import Operation, Parameter

_ERRORS: Final = (400, 401, 403, 404, 405, 429, 500, 503)


class UserDeleted(Struct):
    """What a principal had stored is gone."""

    id: str
    object: str
    deleted: bool


OPERATIONS: Final = (
    Operation(
        "/v1/users/me", "delete", "deleteMe",
        "Delete everything that the caller has stored, from the log too, and revoke their API "
        "keys. Usage stays counted.",
        UserDeleted, errors=_ERRORS, public=False,
    ),
    Operation(
        "/v1/admin/users/{id}", "delete", "deleteUser",
        "Delete everything that somebody has stored, and revoke their API keys. Needs a key with "
        "the scope `admin`.",
        UserDeleted, errors=_ERRORS, public=False,
        parameters=(Parameter("id", "path", "The principal's id.", {"type": "string"}),),
    ),
)  # fmt: skip

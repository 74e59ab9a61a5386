"""What searches by words have in common."""

from typing import Any

from sqlalchemy import cast, literal
from sqlalchemy.dialects.postgresql import TSQUERY


def of_owner(principal: str) -> Any:
    """A tsquery that finds only what a principal owns: the owner is a lexeme of every row."""
    owner = "owner=" + principal
    lexeme = "'" + owner.replace("\\", "\\\\").replace("'", "''") + "'"
    return cast(literal(lexeme), TSQUERY)

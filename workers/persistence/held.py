"""The conversations that the turns of one batch are appended to: locked, and read once for all."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from sqlalchemy import Text, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from workers.persistence.changes import WRITTEN, Row, to_row
from workers.persistence.statements import Statement
from workers.persistence.tables import conversations
from workers.persistence.titles import COUNTED

Branch = tuple[str, str]  # a conversation, and the name of one of its branches


@dataclass(slots=True)
class Held:
    """What is known of the conversations; the turns of a batch change it one after the other."""

    rows: dict[str, Row] = field(default_factory=dict)
    branches: set[Branch] = field(default_factory=set)  # those that are there
    spoken: dict[str, int] = field(default_factory=dict)  # messages of the user, all branches

    def find(self, branch: Branch, principal: str) -> Row | None:
        """The conversation of a principal's branch; None if there is none (any more)."""
        row = self.rows.get(branch[0])
        if row is None or row["deleted_at"] or row["principal"] != principal:
            return None
        return row if branch in self.branches else None


async def hold(connection: AsyncConnection, branches: Set[Branch], others: Iterable[str]) -> Held:
    """Lock the conversations of branches, and others that the transaction will write."""
    named = sorted({conversation for conversation, _ in branches}.union(others))
    if not branches:
        return Held()
    rows = {row.id: to_row(row._asdict()) for row in await _LOCK.all(connection, {"named": named})}
    wanted = sorted(branches)
    there = await _BRANCHES.all(
        connection,
        {"conversations": [of for of, _ in wanted], "names": [name for _, name in wanted]},
    )
    untitled = [
        of for of in {of for of, _ in wanted} if of in rows and not rows[of]["title_locked"]
    ]
    spoken = await _SPOKEN.all(connection, {"named": untitled, "most": COUNTED}) if untitled else []
    return Held(rows, {tuple(branch) for branch in there}, dict(spoken))


_LOCK = Statement(
    select(*[conversations.c[name] for name in WRITTEN["conversations"]])
    .where(conversations.c.id == any_(bindparam("named", type_=ARRAY(Text))))
    .order_by(conversations.c.id)
    .with_for_update()
)
_BRANCHES = Statement(
    "SELECT b.conversation_id, b.name FROM conversation_branches AS b"
    " JOIN unnest(CAST(:conversations AS text[]), CAST(:names AS text[])) AS asked(of, name)"
    " ON b.conversation_id = asked.of AND b.name = asked.name WHERE b.deleted_at IS NULL"
)
_SPOKEN = Statement(
    "SELECT asked.of, (SELECT count(*) FROM (SELECT 1 FROM conversation_items AS i"
    " WHERE i.conversation_id = asked.of AND i.type = 'message' AND i.role = 'user'"
    " LIMIT :most) AS said) FROM unnest(CAST(:named AS text[])) AS asked(of)"
)

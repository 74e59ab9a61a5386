"""What models were told of calls, beside the items that do not say it.

`pre`: the release before does not know the columns, and leaves them empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_pre_told"
down_revision = "0003_pre_trace"
branch_labels = None
depends_on = None

_TABLES = ("conversation_items", "response_items")


def upgrade() -> None:
    """Add the columns."""
    for table in _TABLES:
        op.add_column(table, sa.Column("told", sa.LargeBinary))


def downgrade() -> None:
    """Take them away."""
    for table in _TABLES:
        op.drop_column(table, "told")

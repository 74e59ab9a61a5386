"""Runs are found by the trace that they belong to.

`pre`: the release before does not know the column, and leaves it empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003_pre_trace"
down_revision = "0002_pre_state"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the index is over those that have a trace, so it is made at once."""
    op.add_column("runs", sa.Column("trace_id", sa.Text))
    op.create_index(
        "ix_runs_trace_id",
        "runs",
        ["trace_id"],
        postgresql_where=sa.text("trace_id IS NOT NULL"),
    )


def downgrade() -> None:
    """Take it away."""
    op.drop_index("ix_runs_trace_id", table_name="runs")
    op.drop_column("runs", "trace_id")

"""Runs, who worked on them, and where their facts lie in the log.

`pre`: runs before the new release starts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001_pre_runs"
down_revision = None
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("principal", sa.Text),
        sa.Column("api_key_id", sa.Text),
        sa.Column("kind", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("deployment", sa.Text),
        sa.Column("edge", sa.Text),
        sa.Column("stream", sa.Boolean),
        sa.Column("background", sa.Boolean),
        sa.Column("request_id", sa.Text),
        sa.Column("accepted_at", _AT),
        sa.Column("started_at", _AT),
        sa.Column("first_frame_at", _AT),
        sa.Column("finished_at", _AT),
        sa.Column("frames", sa.BigInteger),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("total_tokens", sa.BigInteger),
        sa.Column("usage", sa.LargeBinary),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error", sa.LargeBinary),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_index("ix_runs_principal_accepted_at", "runs", ["principal", "accepted_at"])
    op.create_index("ix_runs_request_id", "runs", ["request_id"])
    op.create_table(
        "run_attempts",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer),
        sa.Column("worker", sa.Text),
        sa.Column("deployment", sa.Text),
        sa.Column("at", _AT),
        sa.Column("first", sa.BigInteger),
        sa.Column("count", sa.BigInteger),
        sa.PrimaryKeyConstraint("run_id", "epoch", name="pk_run_attempts"),
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "seq", name="pk_run_events"),
    )
    op.create_table(
        "projection_positions",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_projection_positions"),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("projection_positions", "run_events", "run_attempts", "runs"):
        op.drop_table(table)

"""The tables, as SQLAlchemy sees them; `migrations/` makes them, and a test compares the two.

Whatever came from a client or an upstream as JSON is kept as bytes: PostgreSQL's own JSON and text
types refuse `\\u0000`, and one such message must not stop the projection.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_At = DateTime(timezone=True)

# One row for each run. A fact may arrive before those that it follows from, so all but the key
# and the status can be missing for a while.
runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("status", Text, nullable=False),  # accepted, running, completed, failed, cancelled
    Column("principal", Text),
    Column("api_key_id", Text),
    Column("kind", Text),
    Column("model", Text),
    Column("deployment", Text),
    Column("edge", Text),
    Column("stream", Boolean),
    Column("background", Boolean),
    Column("request_id", Text),
    Column("accepted_at", _At),
    Column("started_at", _At),
    Column("first_frame_at", _At),
    Column("finished_at", _At),
    Column("frames", BigInteger),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("usage", LargeBinary),  # as the engine told it, with its details
    Column("finish_reason", Text),
    Column("error", LargeBinary),  # the envelope that was sent
    Index(None, "principal", "accepted_at"),
    Index(None, "request_id"),
)

# Who worked on a run: one row for each fence.
run_attempts = Table(
    "run_attempts",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("attempt", Integer),
    Column("worker", Text),
    Column("deployment", Text),
    Column("at", _At),
    Column("first", BigInteger),  # index of its first frame
    Column("count", BigInteger),  # how many frames of it counted; set when the run has ended
)

# Where a run's facts lie in the log: read by `jan log`, and what a legal deletion erases by. A
# run's result is read from there too, so no body is stored twice.
run_events = Table(
    "run_events",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("at", _At, nullable=False),
)

# How far each projection has come in the log. While several workers share one, the newest
# sequence can be ahead of some that another worker is still writing.
projection_positions = Table(
    "projection_positions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

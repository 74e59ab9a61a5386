"""The tables, as SQLAlchemy sees them; `migrations/` makes them, and a test compares the two.

Whatever came from a client or an upstream as JSON is kept as bytes: PostgreSQL's own JSON and text
types refuse `\\u0000`, and one such message must not stop the projection. (Metadata is JSONB, as
lists filter by it: the edge lets no NUL into it.)

Tables of STATE are written by commands and by the facts that follow from them (`changes.py`). Each
of their rows has an owner and a version; a deleted row stays as a tombstone without its content, so
that no late fact brings it back.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import INT8MULTIRANGE, JSONB, TSVECTOR

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
    Column("conversation_id", Text),
    Column("project_id", Text),
    Column("trace_id", Text),  # of the client's traceparent
    Column("parent", Text),  # the run that it is a step of
    Index(None, "principal", "accepted_at"),
    # One's own list, however it is filtered: what the filters need is read from the index itself.
    Index(None, "principal", "run_id", "status", "kind", "model", "parent"),
    # Everybody's: of what nearly all have, the newest are found without an index.
    Index(None, "status", "run_id", postgresql_where=text("status <> 'completed'")),
    Index(None, "kind", "run_id", postgresql_where=text("kind <> 'chat'")),
    Index(None, "model", "run_id"),
    Index(None, "request_id"),
    Index(None, "conversation_id"),
    Index(None, "parent", "run_id", postgresql_where=text("parent IS NOT NULL")),
    Index(None, "trace_id", postgresql_where=text("trace_id IS NOT NULL")),
    Index(None, "accepted_at"),
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
# run's result is read from there too, so no body is stored twice. Those about the calls of tools
# that a run makes are among its own.
run_events = Table(
    "run_events",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("at", _At, nullable=False),
)

# Where the facts about stored things lie in the log, by the thing: as run_events for runs.
entity_events = Table(
    "entity_events",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("verb", Text, nullable=False),  # <noun>.<verb>
    Column("principal", Text, nullable=False),
    Column("at", _At, nullable=False),
    Index(None, "principal", "seq"),
)

# What was deleted and has to go from the log too (erasure.py): one row for each tombstone. An item
# or a share lies in facts about its conversation, beside what stays (`within`).
erasures = Table(
    "erasures",
    metadata,
    Column("entity", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # the table of the tombstone
    Column("principal", Text, nullable=False),
    Column("within", Text),
    Column("asked_at", _At, nullable=False),
    Column("done_at", _At),
    Index(None, "within", postgresql_where=text("done_at IS NULL")),
    Index(None, "asked_at", postgresql_where=text("done_at IS NULL")),
)

# How far the database has come in the log: see positions.py.
projection_positions = Table(
    "projection_positions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("applied", INT8MULTIRANGE, nullable=False),
)

# One row for each command that was carried out. `event` holds what it must tell the log until that
# has it (`seq`); `answer` is what a repeated command gets. Both go when what they are about is
# deleted.
processed_commands = Table(
    "processed_commands",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("name", Text, nullable=False),  # <noun>.<verb>
    Column("entity", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # of the command's body
    Column("at", _At, nullable=False),
    Column("event", LargeBinary),
    Column("seq", BigInteger),
    Column("answer", LargeBinary),
    Index(None, "entity"),
    Index(None, "at"),
)


def _lexemes(body: str) -> str:
    """What a search looks in: the words of a text, and whose it is.

    The owner is a lexeme too: an index over all principals' words would otherwise read everybody's
    rows for a common word. A text beyond 200,000 characters is not searched.
    """
    return (
        f"strip(to_tsvector('simple'::regconfig, left(coalesce({body}, ''), 200000)))"
        " || array_to_tsvector(ARRAY['owner=' || principal])"
    )


projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("name", Text),
    Column("instruction", Text),
    Column("is_favorite", Boolean, nullable=False),
    Column("is_archived", Boolean, nullable=False),
    Column("webhook_url", Text),
    Column("webhook_secret", Text),  # sealed
    Column("created_at", _At, nullable=False),
    Column("updated_at", _At, nullable=False),
    Column("archived_at", _At),
    Column("deleted_at", _At),
    Index(None, "principal", "id", postgresql_where=text("deleted_at IS NULL")),
    Index(None, "principal", "name", postgresql_where=text("deleted_at IS NULL")),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("title", Text),
    Column("title_locked", Boolean, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("referrer", Text),
    Column("project_id", Text),
    Column("instruction", Text),  # the project's, as it was when the conversation came into it
    Column("active_branch", Text, nullable=False),
    Column("next_position", BigInteger, nullable=False),  # of the next item, on any branch
    Column("created_at", _At, nullable=False),
    Column("updated_at", _At, nullable=False),
    Column("deleted_at", _At),
    Column("search", TSVECTOR, Computed(_lexemes("title"), persisted=True)),
    Index(None, "principal", "id", postgresql_where=text("deleted_at IS NULL")),
    Index(None, "principal", "project_id", "id", postgresql_where=text("deleted_at IS NULL")),
    Index(None, "search", postgresql_using="gin", postgresql_where=text("deleted_at IS NULL")),
)

# A branch is a list of segments, oldest first: `[[branch, upto], ...]` says that the items of
# `branch` up to position `upto` belong to it; its own come last, without an end. Positions grow
# over all branches of a conversation, so any page of any branch is one range scan a segment.
conversation_branches = Table(
    "conversation_branches",
    metadata,
    Column("conversation_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("description", Text),
    Column("parent", Text),
    Column("forked_at", BigInteger),  # position of the last item that it shares with its parent
    Column("segments", JSONB, nullable=False),
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation_id", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("role", Text),
    Column("call_id", Text),
    Column("content", LargeBinary),  # the item's JSON, as it is served
    Column("told", LargeBinary),  # what a model is told besides: JSON, see Told
    Column("text", Text),  # what of it is searched
    Column("run_id", Text),
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Column("search", TSVECTOR, Computed(_lexemes("text"), persisted=True)),
    Index(None, "conversation_id", "branch", "position", unique=True),
    Index(None, "conversation_id", "call_id", postgresql_where=text("call_id IS NOT NULL")),
    Index(None, "search", postgresql_using="gin", postgresql_where=text("deleted_at IS NULL")),
)

shares = Table(
    "shares",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("conversation_id", Text, nullable=False),
    Column("item_id", Text),
    Column("slug", Text, nullable=False),
    Column("title", Text),
    Column("snapshot", LargeBinary),
    Column("options", JSONB, nullable=False),
    Column("created_at", _At, nullable=False),
    Column("revoked_at", _At),
    Column("deleted_at", _At),
    Index(None, "slug", unique=True),
    Index(None, "principal", "id"),
    Index(None, "conversation_id"),
)

user_settings = Table(
    "user_settings",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("settings", LargeBinary),
    Column("updated_at", _At, nullable=False),
    Column("deleted_at", _At),
)

# One row for each version of a template; the newest is the one that its name means.
prompt_templates = Table(
    "prompt_templates",
    metadata,
    Column("id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("name", Text),
    Column("description", Text),
    Column("project_id", Text),
    Column("model", Text),
    Column("messages", LargeBinary),
    Column("variables", JSONB, nullable=False),
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Index(None, "principal", "name", "revision"),
    Index(None, "principal", "id", postgresql_where=text("deleted_at IS NULL")),
)

stored_completions = Table(
    "stored_completions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("model", Text),
    Column("metadata", JSONB, nullable=False),
    Column("messages", LargeBinary),  # what was asked
    Column("body", LargeBinary),  # what was answered
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Index(None, "principal", "id", postgresql_where=text("deleted_at IS NULL")),
    Index(
        None,
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=text("deleted_at IS NULL"),
    ),
)

# What a search in one's files looks in: a row for each document, and one for each of its pieces. A
# document is known by the name that its owner gives it, in one store of theirs or in none ("").
search_files = Table(
    "search_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("name", Text),
    Column("attributes", JSONB, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("created_at", _At, nullable=False),
    Column("updated_at", _At, nullable=False),
    Column("deleted_at", _At),
    Index(None, "principal", "store", "document", postgresql_where=text("deleted_at IS NULL")),
)


def _words(body: str) -> str:
    """A piece's words as they are and by their English stems, where they stand, and whose it is."""
    return (
        f"to_tsvector('simple'::regconfig, coalesce({body}, ''))"
        f" || to_tsvector('english'::regconfig, coalesce({body}, ''))"
        " || array_to_tsvector(ARRAY['owner=' || principal])"
    )


search_chunks = Table(
    "search_chunks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("file_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("text", Text),
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Column("search", TSVECTOR, Computed(_words("text"), persisted=True)),
    Index(None, "file_id", "number"),
    Index(None, "search", postgresql_using="gin", postgresql_where=text("deleted_at IS NULL")),
)

# What a response answered is among its items: its object is kept without them.
responses = Table(
    "responses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("model", Text),
    Column("status", Text, nullable=False),
    Column("previous_response_id", Text),
    Column("conversation_id", Text),
    Column("body", LargeBinary),
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Index(None, "principal", "id", postgresql_where=text("deleted_at IS NULL")),
)

# What a response was asked, and then what it answered. Ids are not unique: what an input refers to
# is among its items as well.
response_items = Table(
    "response_items",
    metadata,
    Column("response_id", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),
    Column("id", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("is_output", Boolean, nullable=False),
    Column("role", Text),
    Column("content", LargeBinary),  # the item's JSON, as it is served
    Column("told", LargeBinary),  # what a model is told besides: JSON, see Told
    Column("created_at", _At, nullable=False),
    Column("deleted_at", _At),
    Index(None, "principal", "id"),
)

# Principals that were deleted: whatever they had until then is gone, also if its fact comes later.
deleted_users = Table(
    "deleted_users",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("deleted_at", _At, nullable=False),
)

STATE: Final = (
    deleted_users,
    projects,
    conversations,
    conversation_branches,
    conversation_items,
    shares,
    user_settings,
    prompt_templates,
    stored_completions,
    search_files,
    search_chunks,
    responses,
    response_items,
)

"""Conversations, projects, settings, templates, shares, completions, responses; commands done.

`pre`: the tables before the new release starts. It takes the projection's position away from the
release before, which must be stopped first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002_pre_state"
down_revision = "0001_pre_runs"
branch_labels = None
depends_on = None

_AT = sa.DateTime(timezone=True)
_THERE = sa.text("deleted_at IS NULL")


def _lexemes(body: str) -> str:
    return (
        f"strip(to_tsvector('simple'::regconfig, left(coalesce({body}, ''), 200000)))"
        " || array_to_tsvector(ARRAY['owner=' || principal])"
    )


def _words(body: str) -> str:
    return (
        f"to_tsvector('simple'::regconfig, coalesce({body}, ''))"
        f" || to_tsvector('english'::regconfig, coalesce({body}, ''))"
        " || array_to_tsvector(ARRAY['owner=' || principal])"
    )


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "conversation_branches",
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("parent", sa.Text),
        sa.Column("forked_at", sa.BigInteger),
        sa.Column("segments", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("conversation_id", "name", name="pk_conversation_branches"),
    )
    op.create_table(
        "conversation_items",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("branch", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("role", sa.Text),
        sa.Column("call_id", sa.Text),
        sa.Column("content", sa.LargeBinary),
        sa.Column("text", sa.Text),
        sa.Column("run_id", sa.Text),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.Column("search", postgresql.TSVECTOR(), sa.Computed(_lexemes("text"), persisted=True)),
        sa.PrimaryKeyConstraint("id", name="pk_conversation_items"),
    )
    op.create_index(
        "ix_conversation_items_conversation_id_branch_position",
        "conversation_items",
        ["conversation_id", "branch", "position"],
        unique=True,
    )
    op.create_index(
        "ix_conversation_items_conversation_id_call_id",
        "conversation_items",
        ["conversation_id", "call_id"],
        postgresql_where=sa.text("call_id IS NOT NULL"),
    )
    op.create_index(
        "ix_conversation_items_search",
        "conversation_items",
        ["search"],
        postgresql_using="gin",
        postgresql_where=_THERE,
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("title_locked", sa.Boolean, nullable=False),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("referrer", sa.Text),
        sa.Column("project_id", sa.Text),
        sa.Column("instruction", sa.Text),
        sa.Column("active_branch", sa.Text, nullable=False),
        sa.Column("next_position", sa.BigInteger, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.Column("search", postgresql.TSVECTOR(), sa.Computed(_lexemes("title"), persisted=True)),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index(
        "ix_conversations_principal_id",
        "conversations",
        ["principal", "id"],
        postgresql_where=_THERE,
    )
    op.create_index(
        "ix_conversations_principal_project_id_id",
        "conversations",
        ["principal", "project_id", "id"],
        postgresql_where=_THERE,
    )
    op.create_index(
        "ix_conversations_search",
        "conversations",
        ["search"],
        postgresql_using="gin",
        postgresql_where=_THERE,
    )
    op.create_table(
        "deleted_users",
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("deleted_at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("principal", name="pk_deleted_users"),
    )
    op.create_table(
        "erasures",
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("within", sa.Text),
        sa.Column("asked_at", _AT, nullable=False),
        sa.Column("done_at", _AT),
        sa.PrimaryKeyConstraint("entity", name="pk_erasures"),
    )
    op.create_index(
        "ix_erasures_within",
        "erasures",
        ["within"],
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_index(
        "ix_erasures_asked_at",
        "erasures",
        ["asked_at"],
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_table(
        "entity_events",
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.PrimaryKeyConstraint("entity", "seq", name="pk_entity_events"),
    )
    op.create_index("ix_entity_events_principal_seq", "entity_events", ["principal", "seq"])
    op.create_table(
        "processed_commands",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("at", _AT, nullable=False),
        sa.Column("event", sa.LargeBinary),
        sa.Column("seq", sa.BigInteger),
        sa.Column("answer", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_processed_commands"),
    )
    op.create_index("ix_processed_commands_at", "processed_commands", ["at"])
    op.create_index("ix_processed_commands_entity", "processed_commands", ["entity"])
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("instruction", sa.Text),
        sa.Column("is_favorite", sa.Boolean, nullable=False),
        sa.Column("is_archived", sa.Boolean, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("archived_at", _AT),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_index(
        "ix_projects_principal_id", "projects", ["principal", "id"], postgresql_where=_THERE
    )
    op.create_index(
        "ix_projects_principal_name", "projects", ["principal", "name"], postgresql_where=_THERE
    )
    op.create_table(
        "prompt_templates",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("project_id", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("messages", sa.LargeBinary),
        sa.Column("variables", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", "revision", name="pk_prompt_templates"),
    )
    op.create_index(
        "ix_prompt_templates_principal_name_revision",
        "prompt_templates",
        ["principal", "name", "revision"],
    )
    op.create_index(
        "ix_prompt_templates_principal_id",
        "prompt_templates",
        ["principal", "id"],
        postgresql_where=_THERE,
    )
    op.create_table(
        "shares",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("snapshot", sa.LargeBinary),
        sa.Column("options", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("revoked_at", _AT),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", name="pk_shares"),
    )
    op.create_index("ix_shares_conversation_id", "shares", ["conversation_id"])
    op.create_index("ix_shares_principal_id", "shares", ["principal", "id"])
    op.create_index("ix_shares_slug", "shares", ["slug"], unique=True)
    op.create_table(
        "stored_completions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("metadata", postgresql.JSONB(), nullable=False),
        sa.Column("messages", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", name="pk_stored_completions"),
    )
    op.create_index(
        "ix_stored_completions_metadata",
        "stored_completions",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=_THERE,
    )
    op.create_index(
        "ix_stored_completions_principal_id",
        "stored_completions",
        ["principal", "id"],
        postgresql_where=_THERE,
    )
    _create_responses()
    op.create_table(
        "user_settings",
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("settings", sa.LargeBinary),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("principal", name="pk_user_settings"),
    )
    op.add_column("projection_positions", sa.Column("applied", postgresql.INT8MULTIRANGE()))
    op.execute(
        "UPDATE projection_positions"
        " SET name = 'log', applied = int8multirange(int8range(0, seq, '[]')) WHERE name = 'runs'"
    )
    op.alter_column("projection_positions", "applied", nullable=False)
    op.drop_column("projection_positions", "seq")
    _extend_runs()


def _extend_runs() -> None:
    op.add_column("runs", sa.Column("conversation_id", sa.Text))
    op.add_column("runs", sa.Column("project_id", sa.Text))
    op.add_column("runs", sa.Column("parent", sa.Text))
    op.create_index("ix_runs_conversation_id", "runs", ["conversation_id"])
    op.create_index("ix_runs_accepted_at", "runs", ["accepted_at"])
    op.create_index(
        "ix_runs_principal_run_id_status_kind_model_parent",
        "runs",
        ["principal", "run_id", "status", "kind", "model", "parent"],
    )
    op.create_index(
        "ix_runs_parent_run_id",
        "runs",
        ["parent", "run_id"],
        postgresql_where=sa.text("parent IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_status_run_id",
        "runs",
        ["status", "run_id"],
        postgresql_where=sa.text("status <> 'completed'"),
    )
    op.create_index(
        "ix_runs_kind_run_id",
        "runs",
        ["kind", "run_id"],
        postgresql_where=sa.text("kind <> 'chat'"),
    )
    op.create_index("ix_runs_model_run_id", "runs", ["model", "run_id"])
    op.create_table(
        "search_chunks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("file_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.Column("search", postgresql.TSVECTOR(), sa.Computed(_words("text"), persisted=True)),
        sa.PrimaryKeyConstraint("id", name="pk_search_chunks"),
    )
    op.create_index("ix_search_chunks_file_id_number", "search_chunks", ["file_id", "number"])
    op.create_index(
        "ix_search_chunks_search",
        "search_chunks",
        ["search"],
        postgresql_using="gin",
        postgresql_where=_THERE,
    )
    op.create_table(
        "search_files",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("store", sa.Text, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("attributes", postgresql.JSONB(), nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("updated_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", name="pk_search_files"),
    )
    op.create_index(
        "ix_search_files_principal_store_document",
        "search_files",
        ["principal", "store", "document"],
        postgresql_where=_THERE,
    )


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("previous_response_id", sa.Text),
        sa.Column("conversation_id", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("id", name="pk_responses"),
    )
    op.create_index(
        "ix_responses_principal_id", "responses", ["principal", "id"], postgresql_where=_THERE
    )
    op.create_table(
        "response_items",
        sa.Column("response_id", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("is_output", sa.Boolean, nullable=False),
        sa.Column("role", sa.Text),
        sa.Column("content", sa.LargeBinary),
        sa.Column("created_at", _AT, nullable=False),
        sa.Column("deleted_at", _AT),
        sa.PrimaryKeyConstraint("response_id", "position", name="pk_response_items"),
    )
    op.create_index("ix_response_items_principal_id", "response_items", ["principal", "id"])


def downgrade() -> None:
    """Take them away, with what is in them."""
    op.drop_index("ix_runs_model_run_id", table_name="runs")
    op.drop_index("ix_runs_kind_run_id", table_name="runs")
    op.drop_index("ix_runs_status_run_id", table_name="runs")
    op.drop_index("ix_runs_parent_run_id", table_name="runs")
    op.drop_index("ix_runs_principal_run_id_status_kind_model_parent", table_name="runs")
    op.drop_index("ix_runs_accepted_at", table_name="runs")
    op.drop_index("ix_runs_conversation_id", table_name="runs")
    op.drop_column("runs", "parent")
    op.drop_column("runs", "project_id")
    op.drop_column("runs", "conversation_id")
    op.add_column("projection_positions", sa.Column("seq", sa.BigInteger))
    op.execute("UPDATE projection_positions SET name = 'runs', seq = upper(applied) - 1")
    op.alter_column("projection_positions", "seq", nullable=False)
    op.drop_column("projection_positions", "applied")
    for table in (
        "user_settings",
        "stored_completions",
        "responses",
        "response_items",
        "shares",
        "search_files",
        "search_chunks",
        "prompt_templates",
        "projects",
        "processed_commands",
        "entity_events",
        "erasures",
        "deleted_users",
        "conversations",
        "conversation_items",
        "conversation_branches",
    ):
        op.drop_table(table)

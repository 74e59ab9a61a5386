"""What a persistence worker is told."""

from pydantic import Field, SecretStr

from workers.runtime import WorkerSettings


class PersistenceSettings(WorkerSettings):
    """Settings of a persistence worker."""

    name: str = Field(
        default="persistence-1",
        description="This process's name in presence and logs; unique among its kind.",
    )
    database_url: SecretStr = Field(
        default=SecretStr("postgresql+psycopg://jan@127.0.0.1:5432/jan"),
        description="Where PostgreSQL is, with user and password. The default is a server of this "
        "machine; `jan` fills in the one that it started.",
    )
    database_pool: int = Field(
        default=10,
        ge=3,
        le=100,
        description="Connections of one worker at most. Four of ten are for questions, so that "
        "slow ones keep no write waiting; the others are for commands and the projection. "
        "PostgreSQL's own default limit of 100 leaves room for nine workers.",
    )
    database_read_url: SecretStr | None = Field(
        default=None,
        description="Where a read replica of the database is. Questions go there when it has what "
        "the asker has written, and to the database itself otherwise, also while the replica is "
        "away. As many connections as questions have at the database.",
    )
    title_model: str | None = Field(
        default=None,
        description="The model that makes the titles of conversations, in six words at most. It is "
        "asked beside other work, after the first and every fifth message of the user, and sees "
        "what was said in that turn; nobody's usage is charged. By default titles are the user's "
        "first words, which costs nothing and shows nothing to another model.",
    )
    commands_kept: float = Field(
        default=172_800.0,
        ge=90_000.0,
        description="Seconds for which it is remembered that a write was done: for so long an "
        "Idempotency-Key gives the first answer again. More than the day that commands may wait "
        "on the bus, or one could be done twice.",
    )
    projection_batch: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Events that are written in one transaction at most. Larger ones gain little, "
        "and each may hold a request of 1 MiB in memory.",
    )

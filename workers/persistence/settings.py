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
        default=8,
        ge=2,
        le=100,
        description="Connections of one worker at most. The projection needs one and a query one "
        "for some milliseconds; PostgreSQL's own default limit of 100 leaves room for ten workers.",
    )
    projection_batch: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Events that are written in one transaction at most. Larger ones gain little, "
        "and each may hold a request of 1 MiB in memory.",
    )

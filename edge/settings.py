"""What an edge can be told, by `JAN_*` variables or by whoever starts it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from schemas.content import Content

_SAMPLE_SECRETS = ("change", "secret", "example", "sample", "dev", "test", "password")
_ENOUGH = 32  # characters: 128 bits in hex


class EdgeSettings(BaseSettings):
    """One edge's settings. Built once and passed down."""

    model_config = SettingsConfigDict(env_prefix="JAN_", env_file=".env", extra="ignore")

    name: str = Field(
        "edge-1",
        pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
        description="This edge's name, part of subjects: two edges must never share one.",
    )
    environment: Literal["development", "production"] = Field(
        "production",
        description="Outside development a sample secret is refused: safe unless said otherwise.",
    )
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. Local by default: serving a network is a decision.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    data: Path = Field(
        Path(".jan"), description="Folder of keys and objects; all edges of a machine share it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Requests are not logged one by one: runs are in the log of events."
    )

    nats_url: SecretStr = Field(
        SecretStr("nats://127.0.0.1:4222"),
        description="The bus, with user and password. The default port is NATS's own.",
    )
    s3_url: str = Field(
        "", description="Object store for large bodies; empty: the folder `objects` under data."
    )
    s3_bucket: str = Field("jan", description="Bucket of the object store.")
    s3_access_key: str = Field("", description="Access key of the object store.")
    s3_secret_key: SecretStr = Field(
        SecretStr(""), description="Secret key of the object store; not logged."
    )

    max_body: int = Field(
        20 * 1024 * 1024,
        ge=1024,
        description="Largest request body in bytes; 20 MiB holds several base64 images.",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        [],
        description="Origins whose pages may call this server, comma-separated, `*` for all. "
        "None by default: a web page should not reach a local server unasked.",
    )
    mcp_hosts: Annotated[list[str], NoDecode] = Field(
        [],
        description="Hosts that /mcp answers to, comma-separated, as `name` or `name:port`. Empty: "
        "any, as behind a proxy; a page that is led here by DNS has no credential to send.",
    )
    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s\"]+)?$",
        description="This server's address as its clients know it (https://jan.example.com), told "
        "to those who look for a credential for /mcp. Empty: as each request says it.",
    )
    authorization_servers: Annotated[list[str], NoDecode] = Field(
        [],
        description="Whom MCP clients are sent to for a token, comma-separated URLs. Empty: this "
        "server, whose tokens come from /auth/guest.",
    )
    forwarded_allow_ips: str = Field(
        "",
        description="Proxies whose X-Forwarded-For is believed, comma-separated. None by default: "
        "a client could choose the address that guests are counted by.",
    )

    first_frame_wait: float = Field(
        10.0,
        gt=0,
        description="Seconds to hold back the headers of a stream, so that an early error is a "
        "status; longer would run into the timeouts of proxies.",
    )
    heartbeat: float = Field(
        15.0, gt=0, description="Seconds between comments on a silent stream; proxies cut at 30-60."
    )
    disconnect_grace: float = Field(
        0.0,
        ge=0,
        description="Seconds that a run goes on without a reader. 0: who leaves, stops paying.",
    )
    disconnect_grace_idempotent: float = Field(
        60.0,
        ge=0,
        description="The same for requests with an Idempotency-Key: their clients come back.",
    )
    run_deadline: float = Field(
        600.0,
        gt=0,
        le=3000,
        description="Seconds a run may take, waiting included; must end within the hour that "
        "frames are kept.",
    )
    log_content: Content = Field(
        "full",
        description="How much of what is said the log keeps of runs that are not stored in a "
        "conversation or by `store`: `full`, `short` (200 characters of each text of a request) or "
        "`none`. With less than `full` no answer is kept: such a run can't be replayed, and an "
        "Idempotency-Key gives its result for an hour only.",
    )
    write_patience: float = Field(
        10.0,
        gt=0,
        le=600,
        description="Seconds that a write may wait for the database: PostgreSQL takes a few to "
        "start again. What is not begun by then is answered with 503, and never done.",
    )
    drain_timeout: float = Field(
        2.0,
        ge=0,
        description="Seconds that open streams get when the edge is told to stop, before they are "
        "handed off. The local server stops within 5 s, and its edges first; give more behind a "
        "load balancer.",
    )

    outbound_allow: Annotated[list[str], NoDecode] = Field(
        [],
        description="Hosts (`name`, `name:port`) and networks, separated by commas, that webhooks "
        "may go to although they are not on the public internet; the same as the tools worker's, "
        "which sends them.",
    )
    sealing_key: SecretStr = Field(
        SecretStr(""),
        description="What secrets are sealed with (credentials of a request's MCP servers, secrets "
        "of webhooks); the same for all processes. `jan up` makes one.",
    )
    api_key_secret: SecretStr = Field(
        SecretStr(""),
        description="Key of the HMAC under which API keys are stored, 32 characters or more; made "
        "at the first start of the local server. Changing it invalidates every key.",
    )
    jwt_keys: Path | None = Field(
        None,
        description="Folder of the key pairs that sign access tokens; default `keys/jwt` in data.",
    )
    jwt_issuer: str = Field("jan-server", description="`iss` of access tokens, and asked of them.")
    jwt_audience: str = Field("jan", description="`aud` of access tokens, and asked of them.")
    access_lifetime: int = Field(
        3600,
        ge=60,
        description="Seconds an access token is good for. A logout ends it at once anyway.",
    )
    refresh_lifetime: int = Field(
        30 * 86400,
        ge=60,
        le=30 * 86400,
        description="Seconds a refresh token is good for; the bucket keeps sessions for 30 days.",
    )

    guests: bool = Field(True, description="Whether anybody may become a guest.")
    guest_rpm: int = Field(
        60, ge=1, description="Requests a minute of one guest: enough for a person, not a script."
    )
    guest_in_flight: int = Field(
        8, ge=1, description="Requests of one guest at a time: a few tabs and their streams."
    )
    guest_creations: int = Field(
        60,
        ge=1,
        description="Guests an hour from one address: an office behind one may need as many.",
    )
    share_reads: int = Field(
        100,
        ge=1,
        description="Reads a minute of public shares from one address: nobody has to sign in for "
        "them, and each may be 6 MiB.",
    )

    @field_validator(
        "cors_origins", "mcp_hosts", "authorization_servers", "outbound_allow", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [one.strip() for one in value.split(",") if one.strip()]
        return value

    @model_validator(mode="after")
    def _refuse_sample_secrets(self) -> Self:
        secret = self.api_key_secret.get_secret_value()
        weak = len(secret) < _ENOUGH or secret.lower().startswith(_SAMPLE_SECRETS)
        if weak and self.environment != "development":
            raise ValueError(
                "JAN_API_KEY_SECRET is missing, short or a sample: "
                "give 32 random characters or more (`openssl rand -hex 32`)"
            )
        return self

    @property
    def jwt_folder(self) -> Path:
        """Where the key pairs of access tokens lie."""
        return self.jwt_keys or self.data / "keys" / "jwt"

    @property
    def key_secret(self) -> bytes:
        """The HMAC key of API keys and run ids."""
        return self.api_key_secret.get_secret_value().encode()

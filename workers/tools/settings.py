"""The tools worker's settings."""

import os
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from workers.runtime import WorkerSettings

QUEUES: Final = (
    "web_search",
    "web_fetch",
    "python_exec",
    "file_search_index",
    "file_search_query",
    "mcp",
    "webhooks",
)
_SLOTS: Final = {"python_exec": max(2, os.cpu_count() or 1), "mcp": 64}
_OTHER_SLOTS: Final = 32


class ToolsSettings(WorkerSettings):
    """What the tools worker is told."""

    tools_queues: Annotated[list[str], NoDecode] = Field(
        default=list(QUEUES),
        description="Queues to work for, separated by commas. All by default; name some to keep "
        "what runs code (`python_exec`) on machines of its own.",
    )
    tools_slots: Annotated[dict[str, int], NoDecode] = Field(
        default={},
        description="Calls at the same time for each queue, such as `python_exec=2,mcp=64`. "
        "By default 32, as calls wait for others mostly; `mcp` has 64; `python_exec` as many as "
        "there are processors, at least 2, as its calls compute.",
    )
    drain_timeout: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that calls have to end after SIGTERM; then other workers take them. "
        "30 is what Kubernetes allows by default.",
    )
    ack_wait: float = Field(
        default=2.0,
        gt=0,
        description="Seconds without a heartbeat after which the server gives a call to another "
        "worker: the consumers' ack_wait.",
    )
    max_deliver: int = Field(
        default=20,
        ge=2,
        description="Deliveries of a call: the consumers' max_deliver. The last one only tells "
        "that it was given up.",
    )
    tool_breaker_failures: int = Field(
        default=5,
        ge=1,
        description="Failures in a row after which a backend (a search provider, an MCP server) is "
        "left alone. Five, as one or two happen to healthy ones.",
    )
    tool_breaker_seconds: float = Field(
        default=30.0,
        gt=0,
        description="… for so many seconds, in which calls of it fail at once. Half a minute is "
        "what a restart takes.",
    )
    serper_api_key: SecretStr = Field(
        default=SecretStr(""), description="Searches with Serper, first of all."
    )
    serper_url: str = Field(
        default="https://google.serper.dev", description="Where Serper is; for tests and proxies."
    )
    tavily_api_key: SecretStr = Field(
        default=SecretStr(""), description="Searches with Tavily, if Serper has no key or fails."
    )
    tavily_url: str = Field(
        default="https://api.tavily.com", description="Where Tavily is; for tests and proxies."
    )
    exa_api_key: SecretStr = Field(
        default=SecretStr(""), description="Searches with Exa, if none before it can."
    )
    exa_url: str = Field(
        default="https://api.exa.ai", description="Where Exa is; for tests and proxies."
    )
    searxng_url: str = Field(
        default="",
        description="A SearXNG of yours, with `json` among its formats; asked last. Empty: none.",
    )
    search_stub: bool = Field(
        default=False,
        description="Answer searches with made-up results, marked as such, where no provider is "
        "set. Off, as nobody should take them for true.",
    )
    fetch_robots: bool = Field(
        default=True,
        description="Whether `web_fetch` honours robots.txt. On, as sites expect it of programs.",
    )
    outbound_allow: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Hosts (`name`, `name:port`) and networks that tools may reach although they "
        "are not on the public internet, separated by commas. None, as a model that is told to "
        "reads what only your network should.",
    )
    mcp_file: Path | None = Field(
        default=None,
        description="The file that names MCP servers. Without one it is `mcp.yaml` under data, if "
        "that exists.",
    )
    mcp_list_kept: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that an MCP server's list of tools is believed. Five minutes: lists "
        "change with releases.",
    )
    python_memory: int = Field(
        default=512 << 20,
        ge=64 << 20,
        description="Bytes of memory that the processes of a call of `python_exec` may have "
        "together. 512 MiB is enough for data in the size of what a model can be sent.",
    )
    artifacts_kept: float = Field(
        default=30 * 86400.0,
        ge=3600,
        description="Seconds that files stay which tools have made. A month, as the answers that "
        "name them are read again.",
    )
    python_seconds: int = Field(
        default=20,
        ge=1,
        le=40,
        description="Seconds that a call of `python_exec` has, by the clock and of each process's "
        "processor time. 20 is enough for a computation that somebody waits for.",
    )
    python_uid: int = Field(
        default=64900,
        ge=1000,
        description="First of the user ids that code runs as if the worker is root, one for each "
        "slot of `python_exec`. 64900: above those of people and services, and nobody's.",
    )
    sealing_key: SecretStr = Field(
        default=SecretStr(""),
        description="What secrets are sealed with (credentials of a request's MCP servers, secrets "
        "of webhooks); the same for all processes. `jan up` makes one.",
    )

    @field_validator("tools_queues", "outbound_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [name for name in value.split(",") if name] if isinstance(value, str) else value

    @field_validator("tools_queues")
    @classmethod
    def _known(cls, queues: list[str]) -> list[str]:
        if unknown := set(queues) - set(QUEUES):
            raise ValueError(f"no queue is named {min(unknown)}; there are {', '.join(QUEUES)}")
        return queues

    @field_validator("tools_slots", mode="before")
    @classmethod
    def _read_slots(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split(",") if part]
        if not all(queue in QUEUES and number.isdecimal() for queue, _, number in parts):
            raise ValueError(f"say QUEUE=NUMBER,…, with QUEUE one of {', '.join(QUEUES)}")
        return {queue: int(number) for queue, _, number in parts}

    def slots(self, queue: str) -> int:
        """Calls at the same time of a queue."""
        return max(1, self.tools_slots.get(queue) or _SLOTS.get(queue, _OTHER_SLOTS))

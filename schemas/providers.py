"""providers.yaml: who serves which models. API keys stay in here and never enter NATS.

An error is one line: the file, the line, the key, what is wrong.
"""

import fnmatch
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from schemas import catalogue, subjects
from schemas.documents import Document

Capability = Literal[
    "chat", "completions", "embeddings", "tools", "vision", "json_schema", "reasoning"
]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class ProvidersError(ValueError):
    """A fault in providers.yaml, told in one line."""


class _Part(BaseModel):
    """Every part refuses unknown keys and never repeats a value in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Limits(_Part):
    """What a deployment takes at most; 0 is no limit."""

    rpm: int = Field(default=0, ge=0)
    in_flight: int = Field(default=0, ge=0)


class HealthCheck(_Part):
    """How often a provider is asked whether it is there; seconds, `every_s` 0: never.

    Every 10 s finds a dead one before most requests do and costs it nothing: its models are listed.
    """

    every_s: float = Field(default=10, ge=0)
    timeout_s: float = Field(default=5, gt=0)


class Discovery(_Part):
    """Which of a provider's own models are served too: shell patterns on their names.

    Five minutes: models come and go by hand. `every_s` 0: only at `jan up`, `jan migrate` and after
    an edit of this file.
    """

    every_s: float = Field(default=300, ge=0)
    include: list[str] = ["*"]
    exclude: list[str] = []

    def wants(self, name: str) -> bool:
        """Whether the model of this name is served."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.include) and not any(
            fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude
        )


class ProviderModel(_Part):
    """A model of a provider: `id` is its name for clients, `served_name` its name upstream."""

    id: str = Field(min_length=1, max_length=256, pattern=r"^[^\s\x00-\x1f\x7f]+$")
    served_name: str | None = Field(default=None, min_length=1)
    capabilities: list[Capability] = []
    context_length: int | None = Field(default=None, gt=0)
    description: str | None = Field(default=None, max_length=500)  # for people, in /v1/models
    weight: int = Field(default=1, ge=1)
    priority: int = 0
    limits: Limits = Limits()

    @property
    def name_upstream(self) -> str:
        """What the provider calls it."""
        return self.served_name or self.id


class Provider(_Part):
    """What all providers have; the kinds below add their own keys."""

    in_process: ClassVar[bool] = False

    name: str = Field(max_length=64, pattern=_NAME)
    kind: str
    models: list[ProviderModel] = []
    health_check: HealthCheck = HealthCheck(every_s=0)  # one in this machine's memory is there
    discover: Discovery | None = None

    @field_validator("discover", mode="before")
    @classmethod
    def _all_or_nothing(cls, value: object) -> object:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @property
    def pool(self) -> str:
        """The workers that can reach it: one pool for all over HTTP, else one of its own."""
        return subjects.slug(self.name) if self.in_process else subjects.REMOTE_POOL


class _HttpProvider(Provider):
    # repr=False: a URL may hold a password
    base_url: str = Field(pattern=r"^https?://[^\s/]+(/\S*)?$", repr=False)
    api_key: SecretStr | None = None
    headers: dict[str, str] = Field(default={}, repr=False)  # may hold credentials too
    health_check: HealthCheck = HealthCheck()

    @field_validator("base_url")
    @classmethod
    def _without_last_slash(cls, url: str) -> str:
        _refuse_unusable(url)
        return url.rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _empty_is_none(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None or not key.get_secret_value():
            return None
        _refuse_unsendable(key.get_secret_value(), "the key")
        return key

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError("a header's name has characters that HTTP does not allow")
            _refuse_unsendable(value, f"the value of {name}")
        return headers


class HttpOptions(_Part):
    """How a provider is reached over HTTP; times in seconds.

    `first_byte_s` counts to the first byte of a stream's body: an upstream that queues a request
    for two minutes is overloaded. `first_token_s` counts to the first token, with whatever signs of
    life before it: longer, as models that think in silence send comments meanwhile. `between_s`
    counts from one byte to the next; comments are bytes. `total_s` bounds the whole answer; the
    default is the longest that a run can be told to take, so that the run's deadline decides.

    `compression` asks for gzip: worth it over a slow line, and never nearby. `proxy` is `none`, the
    URL of an HTTP proxy, or `env`: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, and then never for
    loopback and private addresses and names without a dot. `ca_file` has the authorities to trust,
    instead of the system's.
    """

    connections: int = Field(default=4096, ge=1)
    connect_s: float = Field(default=5, gt=0)
    first_byte_s: float = Field(default=120, gt=0)
    first_token_s: float = Field(default=300, gt=0)
    between_s: float = Field(default=60, gt=0)
    total_s: float = Field(default=3000, gt=0)
    compression: bool = False
    proxy: SecretStr = SecretStr("env")  # may hold a password
    ca_file: str | None = Field(default=None, min_length=1)

    @field_validator("proxy")
    @classmethod
    def _known_proxy(cls, proxy: SecretStr) -> SecretStr:
        url = proxy.get_secret_value()
        if url not in ("env", "none"):
            if not url.startswith("http://"):
                raise ValueError("must be env, none, or a URL that begins with http://")
            _refuse_unusable(url)
        return proxy


class OpenAIOptions(HttpOptions):
    """How an OpenAI-compatible provider is used.

    `stream_usage` off: for one that refuses `stream_options`. `continue_final_message` on: for one
    that continues a last assistant message (vLLM), so that a stream outlives its worker.
    """

    stream_usage: bool = True
    continue_final_message: bool = False


class OpenAIProvider(_HttpProvider):
    """Anything that speaks OpenAI's API; `base_url` ends in `/v1` as for its SDKs."""

    kind: Literal["openai"]
    options: OpenAIOptions = OpenAIOptions()


class AnthropicOptions(HttpOptions):
    """How an upstream that speaks Anthropic's Messages is used.

    `auth` says how the key is sent: as `x-api-key`, or as a bearer token. `max_tokens` is for
    requests that name none, as the API wants one. `sampling` on: send temperature, top_p and top_k,
    which the API refuses from version 2026-10-21 on, and newer models in any version. `thinking`
    says what `reasoning_effort` becomes: an `effort` with adaptive thinking, or a `budget` of
    tokens, as older models want it. `continue_assistant` on: for models that continue a last
    assistant message, so that a stream outlives its worker.
    """

    auth: Literal["x-api-key", "bearer"] = "x-api-key"
    version: str = Field(default="2026-10-21", pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    max_tokens: int = Field(default=4096, ge=1)
    sampling: bool = False
    thinking: Literal["effort", "budget"] = "effort"
    continue_assistant: bool = False


class AnthropicProvider(_HttpProvider):
    """Anthropic's Messages API, there or anywhere else; `base_url` ends in `/v1`."""

    kind: Literal["anthropic"]
    base_url: str = Field(
        default="https://api.anthropic.com/v1", pattern=r"^https?://[^\s/]+(/\S*)?$"
    )
    options: AnthropicOptions = AnthropicOptions()


class LlamacppOptions(_Part):
    """How llama.cpp loads its model.

    `path` is a GGUF file, `hf:OWNER/REPO/FILE.gguf`, or `builtin:jan-tiny`; a relative path starts
    at the providers file. `n_ctx` is what one run may have (default: what the model was made for,
    at most 4096), `n_parallel` how many runs go on at once. `n_threads` unset: the machine's cores,
    one for a model that is too small to share. `cache_prompt` keeps what was read of a prompt for
    the next one that begins alike (unset: not for a small model, whose answers then never depend
    on what was asked before). `params` sets what else the library has, by the
    names of its `CommonParams`; one that it does not know ends the start.
    """

    path: str = Field(min_length=1)
    n_ctx: int | None = Field(default=None, gt=0, le=1 << 22)
    n_parallel: int = Field(default=4, gt=0, le=256)
    n_threads: int | None = Field(default=None, gt=0, le=512)
    n_batch: int | None = Field(default=None, ge=32)
    n_ubatch: int | None = Field(default=None, ge=32)
    n_gpu_layers: int = Field(default=-1, ge=-1)
    flash_attn: Literal["auto", "on", "off"] = "auto"
    cache_type_k: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = "f16"
    cache_type_v: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = "f16"
    cache_prompt: bool | None = None
    embeddings: bool = False
    pooling: Literal["mean", "cls", "last"] | None = None
    chat_template: str | None = Field(default=None, min_length=1)
    chat_template_file: str | None = Field(default=None, min_length=1)
    mmproj: str | None = Field(default=None, min_length=1)
    params: dict[str, bool | int | float | str] = {}

    @field_validator("chat_template_file")
    @classmethod
    def _one_template(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file and info.data.get("chat_template"):
            raise ValueError("chat_template and chat_template_file exclude each other")
        return file

    def beside(self, folder: Path) -> "LlamacppOptions":
        """The same, with relative paths taken from a folder."""

        def absolute(path: str | None) -> str | None:
            if path is None or path.startswith(("builtin:", "hf:")):
                return path
            return str(folder / Path(path).expanduser())

        names = ("path", "chat_template_file", "mmproj")
        return self.model_copy(update={name: absolute(getattr(self, name)) for name in names})


class LlamacppProvider(Provider):
    """A GGUF file, run in the worker."""

    in_process = True
    kind: Literal["llamacpp"]
    options: LlamacppOptions

    def beside(self, folder: Path) -> "LlamacppProvider":
        """The same, with relative paths taken from a folder."""
        return self.model_copy(update={"options": self.options.beside(folder)})


class VllmOptions(_Part):
    """How vLLM runs its model.

    `engine_args` are the arguments of `vllm serve`, with underscores; the model is the first one's
    `served_name` unless they name it. `chat_template` is a file or the template itself.
    """

    engine_args: dict[str, Any] = {}
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None


class VllmProvider(Provider):
    """vLLM, run in the worker."""

    in_process = True
    kind: Literal["vllm"]
    options: VllmOptions = VllmOptions()


class SimulatedOptions(_Part):
    """How the simulated model behaves; times in milliseconds.

    `tokens` is the length of an answer, None: as long as the text happens to be. With `cues` a last
    user message such as `!fail 500` is obeyed: for tests only, as one can end the process.
    """

    seed: int = 0
    ttft_ms: float = Field(default=50, ge=0)
    token_ms: float = Field(default=20, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    cues: bool = False


class SimulatedProvider(Provider):
    """A model that needs no weights, deterministic by seed and prompt."""

    in_process = True
    kind: Literal["simulated"]
    options: SimulatedOptions = SimulatedOptions()


AnyProvider = Annotated[
    OpenAIProvider | AnthropicProvider | LlamacppProvider | VllmProvider | SimulatedProvider,
    Field(discriminator="kind"),
]


class BreakerSettings(_Part):
    """When a deployment counts as down, and for how long; times in seconds.

    `failures` in a row (0: never for that) tell a dead one within moments; 3, as one or two happen
    to healthy ones. `error_rate` is the share of failures among at least ten runs within `window_s`
    (0: never): it finds one that fails now and then. A first token later than `slow_first_token_s`
    counts as a failure (0: never, as what is slow differs by model). It is down for `open_s`, which
    doubles with each trial that fails up to `open_max_s`: a hiccup costs little, a long outage
    few requests. Then it has to serve `trials` runs, one at a time among all workers.
    """

    failures: int = Field(default=3, ge=0)
    window_s: float = Field(default=30, gt=0)
    error_rate: float = Field(default=0.5, ge=0, le=1)
    slow_first_token_s: float = Field(default=0, ge=0)
    open_s: float = Field(default=2, gt=0)
    open_max_s: float = Field(default=60, gt=0)
    trials: int = Field(default=1, ge=1)


class RetrySettings(_Part):
    """How long a run that has sent nothing looks for a deployment; times in seconds.

    Each deployment is tried in its turn; when all had one they are tried again, `attempts` times in
    all, with `backoff_s` (doubled each time, and spread) between the rounds. Nothing is tried or
    waited for (a limit, a provider's Retry-After) beyond `max_s`: by then a client had better know.
    """

    attempts: int = Field(default=3, ge=1)
    backoff_s: float = Field(default=0.2, ge=0)
    max_s: float = Field(default=10, ge=0)


class Routing(_Part):
    """`default_provider` comes first where several serve a model with the same priority."""

    default_provider: str | None = None
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()


class Placement(NamedTuple):
    """A deployment with what serves it: its id is the one in the catalogue and in jobs."""

    id: str
    provider: "AnyProvider"
    model: ProviderModel


class Providers(_Part):
    """The whole file."""

    providers: list[AnyProvider] = Field(min_length=1)
    routing: Routing = Routing()

    def placements(self) -> list[Placement]:
        """All deployments in the order to prefer: the default provider's, then the file's."""
        first = self.routing.default_provider
        ordered = sorted(self.providers, key=lambda provider: provider.name != first)
        return [placement for provider in ordered for placement in _placements_of(provider)]

    def pools(self) -> list[str]:
        """The pools of all providers, each once."""
        return list(dict.fromkeys(provider.pool for provider in self.providers))


def read_providers(
    text: str,
    *,
    name: str = "providers.yaml",
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Providers:
    """Read the file's text; `name` is for messages. Raises ProvidersError.

    `${NAME}` in a value stands for the variable of `environ` (default: the process's), `$${` for
    a literal `${`. Relative paths in it start at `folder`.
    """
    document = _open(name, os.environ if environ is None else environ)
    data = document.read(text)
    if not isinstance(data, dict):
        raise ProvidersError(f"{name}: the file needs a list `providers:`")
    try:
        found = Providers.model_validate(data)
    except ValidationError as error:
        raise document.to_error(error) from None
    _check_names(found, document)
    return found if folder is None else _beside(found, folder)


def _open(name: str, environ: Mapping[str, str]) -> Document:
    return Document(
        name, environ, ProvidersError, parts=_ALL_PARTS, patterns=_PATTERNS, kinds=_KINDS
    )


def _beside(found: Providers, folder: Path) -> Providers:
    placed = [
        provider.beside(folder) if isinstance(provider, LlamacppProvider) else provider
        for provider in found.providers
    ]
    return found.model_copy(update={"providers": placed})


TINY = (
    "A toy of two million parameters that comes with the server: it knows how Jan Server works and"
    " how to call a tool, and little else. Attach a real model with ./jan up --model FILE.gguf"
)
SIMULATED = "Made-up words, for tests: deterministic, and as fast or slow as told."


def default_providers() -> Providers:
    """What is served without a file: the small model that comes along, and the simulated one."""
    return Providers(providers=[_tiny_provider(), _simulated_provider()])


def _tiny_provider() -> LlamacppProvider:
    model = ProviderModel(
        id="jan-tiny",
        capabilities=["chat", "completions", "tools", "json_schema"],
        context_length=2048,
        description=TINY,
    )
    options = LlamacppOptions(path="builtin:jan-tiny", n_ctx=2048, n_parallel=8)
    return LlamacppProvider(name="jan", kind="llamacpp", models=[model], options=options)


def _simulated_provider() -> SimulatedProvider:
    model = ProviderModel(
        id="jan-simulated",
        capabilities=["chat", "completions", "embeddings", "tools", "json_schema"],
        description=SIMULATED,
    )
    return SimulatedProvider(name="simulated", kind="simulated", models=[model])


Discovered = Mapping[str, Sequence[str]]
"""The names of the models that providers have themselves, by the provider's name."""


def to_catalogue(
    providers: Providers,
    created: int,
    known: catalogue.Catalogue | None = None,
    discovered: Discovered | None = None,
) -> catalogue.Catalogue:
    """Say what edges may know. Models in `known` keep their time, new ones are as of `created`.

    A provider that discovers its models and is not in `discovered` keeps those of `known`.
    """
    times = {model.id: model.created for model in known.models} if known else {}
    found = _known_names(known) | dict(discovered or {})
    before = {placement.id for placement in providers.placements()}
    providers = with_discovered(providers, found)
    served: dict[str, list[Placement]] = {}
    for provider in providers.providers:
        for model in provider.models:
            served[model.id] = []
    for placement in providers.placements():
        served[placement.model.id].append(placement)
    return catalogue.Catalogue(
        models=[
            _to_model(model_id, times.get(model_id, created), placements, before)
            for model_id, placements in served.items()
        ]
    )


def with_discovered(providers: Providers, discovered: Discovered) -> Providers:
    """Add the models that providers have themselves, where they are to be discovered."""
    return providers.model_copy(
        update={
            "providers": [
                _with_models(provider, discovered.get(provider.name, ()))
                for provider in providers.providers
            ]
        }
    )


def discovered_model(provider: AnyProvider, name: str) -> ProviderModel | None:
    """The model of this name, if the provider may have it although its file does not list it."""
    if provider.discover is None or not provider.discover.wants(name):
        return None
    try:
        return ProviderModel(id=name)
    except ValidationError:  # a name that no client could send
        return None


def _with_models(provider: AnyProvider, names: Sequence[str]) -> AnyProvider:
    listed = {model.id for model in provider.models}
    listed |= {model.name_upstream for model in provider.models}
    found = [
        model
        for name in dict.fromkeys(names)
        if name not in listed and (model := discovered_model(provider, name)) is not None
    ]
    return provider.model_copy(update={"models": [*provider.models, *found]}) if found else provider


def _known_names(known: catalogue.Catalogue | None) -> dict[str, Sequence[str]]:
    names: dict[str, Sequence[str]] = {}
    for model in known.models if known else ():
        for deployment in model.deployments:
            if deployment.discovered:
                names[deployment.provider] = [*names.get(deployment.provider, ()), model.id]
    return names


def _to_model(
    model_id: str, created: int, placements: list[Placement], listed: Container[str]
) -> catalogue.Model:
    models = [placement.model for placement in placements]
    lengths = [model.context_length for model in models if model.context_length]
    return catalogue.Model(
        id=model_id,
        created=created,
        owned_by=placements[0].provider.name,
        # What any deployment can do: a request reaches only those that can do what it needs.
        capabilities=_sorted({name for model in models for name in model.capabilities}),
        context_length=min(lengths, default=None),
        description=next((model.description for model in models if model.description), None),
        deployments=[
            catalogue.Deployment(
                id=placement.id,
                pool=placement.provider.pool,
                priority=placement.model.priority,
                weight=placement.model.weight,
                rpm=placement.model.limits.rpm,
                in_flight=placement.model.limits.in_flight,
                capabilities=_sorted(placement.model.capabilities),
                provider=placement.provider.name,
                kind=placement.provider.kind,
                discovered=placement.id not in listed,
            )
            for placement in placements
        ],
    )


def _sorted(capabilities: Container[str]) -> list[str]:
    return [name for name in get_args(Capability) if name in capabilities]


def _placements_of(provider: AnyProvider) -> Iterable[Placement]:
    """Name a provider's deployments; the second of one model is `<provider>/<model>#2`."""
    counts: dict[str, int] = {}
    taken = {model.id for model in provider.models}
    for model in provider.models:
        number = counts[model.id] = counts.get(model.id, 0) + 1
        while number > 1 and f"{model.id}#{number}" in taken:
            number = counts[model.id] = number + 1
        suffix = f"#{number}" if number > 1 else ""
        yield Placement(f"{provider.name}/{model.id}{suffix}", provider, model)


def _check_names(found: Providers, document: Document) -> None:
    names: set[str] = set()
    pools = {subjects.REMOTE_POOL}
    for index, provider in enumerate(found.providers):
        path = ("providers", index, "name")
        if not provider.models and provider.discover is None:
            raise document.error(
                ("providers", index, "models"), "is missing: list some, or set discover: true"
            )
        if provider.discover is not None and not isinstance(provider, _HttpProvider):
            raise document.error(
                ("providers", index, "discover"), "only a provider over HTTP lists its models"
            )
        if provider.name in names:
            raise document.error(path, f"there is another provider named {provider.name}")
        if provider.in_process and provider.pool in pools:
            raise document.error(path, f"another pool is named {provider.pool}: choose a new name")
        names.add(provider.name)
        pools.add(provider.pool)
    default = found.routing.default_provider
    if default is not None and default not in names:
        raise document.error(("routing", "default_provider"), f"no provider is named {default}")


def _refuse_unsendable(value: str, what: str) -> None:
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"{what} has characters that an HTTP header can't carry")


def _refuse_unusable(url: str) -> None:
    """Refuse a URL that can't be connected to, without repeating it: it may hold a password."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("is no URL that can be used: look at its host and port")


_KINDS = ("openai", "anthropic", "llamacpp", "vllm", "simulated")
_PATTERNS = {
    "name": "letters, digits, dots, dashes and underscores only",
    "id": "must not contain white space",
    "base_url": "must be a URL that begins with http:// or https://",
}

_ALL_PARTS: tuple[type[_Part], ...] = (
    Providers,
    OpenAIProvider,
    ProviderModel,
    Limits,
    HealthCheck,
    Discovery,
    Routing,
    BreakerSettings,
    RetrySettings,
    OpenAIOptions,
    LlamacppOptions,
    VllmOptions,
    SimulatedOptions,
)

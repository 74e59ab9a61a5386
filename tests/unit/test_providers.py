"""providers.yaml: what it means, and how its faults are told."""

from pathlib import Path

import pytest

from schemas.catalogue import Catalogue, Model
from schemas.providers import (
    OpenAIProvider,
    Providers,
    ProvidersError,
    SimulatedProvider,
    default_providers,
    read_providers,
    to_catalogue,
)

EXAMPLE = Path(__file__).parents[2] / "providers.example.yaml"

TWO = """\
providers:
  - name: Local GPU
    kind: simulated
    models: [{id: m}]
"""

FULL = """\
providers:
  - name: far
    kind: openai
    base_url: http://host:8000/v1/
    api_key: ${KEY}
    headers: {X-Team: "${TEAM}s"}
    models:
      - id: org/big
        served_name: big-8b
        capabilities: [chat, tools, vision]
        context_length: 8192
        weight: 2
        priority: 1
        limits: {rpm: 60, in_flight: 4}
      - {id: org/big, capabilities: [chat, tools]}
  - name: near
    kind: simulated
    options: {seed: 7, tokens: 12, cues: true}
    models: [{id: small}, {id: org/big, capabilities: [tools, chat]}]
routing: {default_provider: near}
"""
ENVIRON = {"KEY": "sk-secret", "TEAM": "blue"}


def read(text: str) -> Providers:
    return read_providers(text, name="p.yaml", environ=ENVIRON)


def fault(text: str) -> str:
    with pytest.raises(ProvidersError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def one(rest: str, kind: str = "simulated") -> str:
    return f"providers:\n  - name: a\n    kind: {kind}\n    models: [{{id: m}}]\n{rest}"


def test_every_key_is_read_and_variables_are_expanded() -> None:
    far, near = read(FULL).providers
    assert isinstance(far, OpenAIProvider)
    assert far.base_url == "http://host:8000/v1"
    assert far.api_key is not None
    assert far.api_key.get_secret_value() == "sk-secret"
    assert far.headers == {"X-Team": "blues"}
    assert far.models[0].name_upstream == "big-8b"
    assert far.models[1].name_upstream == "org/big"
    assert isinstance(near, SimulatedProvider)
    assert (near.options.seed, near.options.tokens, near.options.cues) == (7, 12, True)


def test_credentials_are_not_shown_by_repr() -> None:
    assert "sk-secret" not in repr(read(FULL))
    assert "blues" not in repr(read(FULL))


def test_all_http_providers_share_a_pool_and_the_others_have_their_own() -> None:
    assert read(FULL).pools() == ["remote", "near"]
    assert [provider.pool for provider in read(FULL).providers] == ["remote", "near"]


def test_the_same_model_twice_is_two_deployments_with_ids_of_their_own() -> None:
    assert [placement.id for placement in read(FULL).placements()] == [
        "near/small",
        "near/org/big",
        "far/org/big",
        "far/org/big#2",
    ]


def test_a_model_that_is_named_like_a_second_deployment_keeps_its_id() -> None:
    text = one("").replace("[{id: m}]", '[{id: m}, {id: m}, {id: "m#2"}]')
    assert [placement.id for placement in read(text).placements()] == ["a/m", "a/m#3", "a/m#2"]


def test_the_catalogue_lists_models_as_the_file_and_deployments_by_preference() -> None:
    catalogue = to_catalogue(read(FULL), created=100)
    assert [model.id for model in catalogue.models] == ["org/big", "small"]
    big = catalogue.models[0]
    assert [deployment.id for deployment in big.deployments] == [
        "near/org/big",
        "far/org/big",
        "far/org/big#2",
    ]
    assert big.capabilities == ["chat", "tools", "vision"]
    assert [one.capabilities for one in big.deployments] == [
        ["chat", "tools"],
        ["chat", "tools", "vision"],
        ["chat", "tools"],
    ]
    assert big.context_length == 8192
    far = big.deployments[1]
    assert (far.pool, far.priority, far.weight, far.rpm, far.in_flight) == ("remote", 1, 2, 60, 4)


def test_a_known_model_keeps_its_time_of_creation() -> None:
    known = Catalogue(models=[Model(id="small", created=1, owned_by="x", deployments=[])])
    times = {model.id: model.created for model in to_catalogue(read(FULL), 100, known).models}
    assert times == {"org/big": 100, "small": 1}


def test_without_a_file_the_models_that_come_along_are_served() -> None:
    catalogue = to_catalogue(default_providers(), created=1)
    assert [model.id for model in catalogue.models] == ["jan-tiny", "jan-simulated"]
    assert [model.deployments[0].pool for model in catalogue.models] == ["jan", "simulated"]
    assert all(model.description for model in catalogue.models)


def test_the_example_is_valid() -> None:
    assert read_providers(EXAMPLE.read_text(), environ={}).pools() == [
        "remote",
        "here",
        "simulated",
    ]


def test_a_dollar_can_be_written() -> None:
    text = one("    base_url: http://h/v1\n    headers: {X: '$${KEY}'}\n", kind="openai")
    provider = read(text).providers[0]
    assert isinstance(provider, OpenAIProvider)
    assert provider.headers == {"X": "${KEY}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (one("    wieght: 1\n"), "p.yaml:5: providers[0].wieght: unknown key"),
        (
            one("    options:\n      tokns: 1\n"),
            "p.yaml:6: providers[0].options.tokns: unknown key (did you mean tokens?)",
        ),
        (
            one("    options:\n      seed: 1\n      tokens: many\n"),
            "p.yaml:7: providers[0].options.tokens: Input should be a valid integer",
        ),
        (
            one("    api_key: ${NOPE}\n    base_url: http://h\n", kind="openai"),
            "p.yaml:5: providers[0].api_key: the variable NOPE is not set",
        ),
        (
            one("    base_url: ftp://h\n", kind="openai"),
            "p.yaml:5: providers[0].base_url: must be a URL that begins with http",
        ),
        (one("", kind="openai"), "p.yaml:2: providers[0].base_url: is missing"),
        (one("", kind="magic"), "p.yaml:3: providers[0].kind: must be one of openai, anthropic"),
        ("providers:\n  - name: a\n    models: [{id: m}]\n", "providers[0].kind: is missing"),
        (one("    name: b\n"), "p.yaml:5: providers[0].name: is there twice"),
        (one("routing: {default_provider: z}\n"), "p.yaml:5: routing.default_provider: no provid"),
        (
            one("    tokens: 5\n"),
            "p.yaml:5: providers[0].tokens: unknown key here: it belongs to another part",
        ),
        (one("routings: {}\n"), "p.yaml:5: routings: unknown key (did you mean routing?)"),
        ("", "p.yaml: the file needs a list"),
        ("- a\n", "p.yaml: the file needs a list"),
        ("providers: []\n", "p.yaml:1: providers: List should have at least 1 item"),
        ("providers: [\n", "p.yaml:2: "),
        ("a: 1\n---\nb: 2\n", "p.yaml:2: "),
        ("a: \x00\n", "p.yaml: not a YAML text"),
        ("providers: &x [*x]\n", "p.yaml:1: providers[0]: a part can't contain itself"),
        (TWO, "p.yaml:2: providers[0].name: letters, digits, dots"),
        (
            one("  - name: a\n    kind: simulated\n    models: [{id: n}]\n"),
            "p.yaml:5: providers[1].name: there is another provider named a",
        ),
        (
            one("  - name: A\n    kind: simulated\n    models: [{id: n}]\n"),
            "p.yaml:5: providers[1].name: another pool is named a",
        ),
        (
            one("").replace("name: a", "name: remote"),
            "p.yaml:2: providers[0].name: another pool is named remote",
        ),
        (
            one('    base_url: http://h\n    headers: {X: "a\\r\\nY: b"}\n', kind="openai"),
            "p.yaml:6: providers[0].headers: the value of X has characters",
        ),
        (
            one("").replace("{id: m}", "{id: m, limits: {rpm: -1}}"),
            "p.yaml:4: providers[0].models[0].limits.rpm: Input should be greater",
        ),
    ],
)
def test_a_fault_is_one_line_with_file_line_and_key(text: str, message: str) -> None:
    assert message in fault(text)


def test_a_fault_never_repeats_a_secret() -> None:
    text = one('    base_url: http://h\n    api_key: "${KEY}\\n"\n', kind="openai")
    assert "sk-secret" not in fault(text)

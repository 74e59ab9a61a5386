"""The supervisor's small decisions: when to restart, what a line means, what to serve."""

import shutil
from pathlib import Path

import pytest

from cli import providers
from cli.__main__ import run
from cli.exits import BadSetup, Exit, MissingBinary, PortInUse, exit_of
from cli.listen import reachable
from cli.logs import parse, to_text
from cli.state import ROOT, data_at, prepare
from cli.supervisor import Backoff
from cli.up import Plan, add_arguments, to_plan
from schemas.providers import read_providers


def test_restarts_come_at_once_until_a_process_dies_thrice_in_ten_seconds() -> None:
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 60.0])
    backoff = Backoff(clock=lambda: next(times))
    assert [backoff.pause() for _ in range(6)] == [0.0, 0.0, 0.5, 1.0, 2.0, 0.0]


def test_a_pause_is_never_longer_than_ten_seconds() -> None:
    backoff = Backoff(clock=lambda: 0.0)
    assert max(backoff.pause() for _ in range(20)) == 10.0


@pytest.mark.parametrize(
    ("code", "kind"), [(1, Exit), (2, BadSetup), (3, PortInUse), (4, MissingBinary), (-9, Exit)]
)
def test_a_childs_exit_code_is_passed_on(code: int, kind: type[Exit]) -> None:
    assert type(exit_of(code, "x")) is kind


@pytest.mark.parametrize(
    ("line", "level", "event"),
    [
        (b"[7] 2026/11/21 09:00:00.000001 [WRN] slow consumer", "warning", "slow consumer"),
        (b"[7] 2026/11/21 09:00:00.000001 [INF] Server is ready", "info", "Server is ready"),
        (b"2026-11-21 09:00:00.123 UTC [42] FATAL:  no room", "critical", "no room"),
        (b"2026-11-21 09:00:00.123 UTC [42] LOG:  ready", "info", "ready"),
        (b'{"level":"error","event":"broken"}', "error", "broken"),
        (b"{no json", "info", "{no json"),
        (b"\xff\xfe", "info", "\ufffd\ufffd"),
    ],
)
def test_a_childs_line_is_understood(line: bytes, level: str, event: str) -> None:
    parsed = parse("p", line)
    assert (parsed["process"], parsed.get("level"), parsed["event"]) == ("p", level, event)


def test_a_line_for_people_has_its_fields_and_then_the_traceback() -> None:
    event = {"level": "info", "process": "edge-1", "event": "x", "a": "b c", "exception": "Trace"}
    line = to_text(event)
    assert line.endswith('x a="b c"\nTrace')
    assert "edge-1" in line


@pytest.mark.parametrize(
    ("host", "url_host"),
    [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("example", "example")],
)
def test_a_host_is_written_so_that_a_client_can_use_it(host: str, url_host: str) -> None:
    assert reachable(host) == url_host


def plan(*argv: str) -> Plan:
    from cli.__main__ import Parser

    parser = Parser(prog="jan up")
    add_arguments(parser)
    return to_plan(parser.parse_args([*argv]))


def test_the_scale_of_each_kind_can_be_said_in_two_ways() -> None:
    counts = plan("--scale", "inference=3", "--scale", "persistence=2", "--edges", "4").counts
    assert counts == {"edge": 4, "inference": 3, "responses": 1, "tools": 1, "persistence": 2}
    assert plan("--inference", "5").counts["inference"] == 5


@pytest.mark.parametrize(
    "argv",
    [
        ("--edges", "0"),
        ("--port", "65535", "--edges", "2"),
        ("--providers", "x", "--upstream", "http://y"),
        ("--providers", "x", "--model", "y.gguf"),
    ],
)
def test_options_that_contradict_each_other_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(BadSetup):
        plan(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["up", "--port", "http"],
        ["up", "--port", "65536"],
        ["up", "--scale", "inference"],
        ["up", "--scale", "cats=3"],
        ["up", "--nonsense"],
        ["keys"],
        ["nonsense"],
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = run(argv)
    except SystemExit as exit:
        code = exit.code
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("jan: ")
    assert said.count("\n") == 1


async def test_without_anything_the_models_that_come_along_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = data_at(tmp_path)
    prepare(data)
    served = await providers.choose(None, None, [], data)
    assert (served.toys, served.example_model) == (True, "jan-tiny")
    assert served.environment() == {}


async def test_a_file_in_the_data_directory_is_used_without_being_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    file = tmp_path / "providers.yaml"
    file.write_text("providers: [{name: mine, kind: simulated, models: [{id: m}]}]")
    served = await providers.choose(None, None, [], data_at(tmp_path))
    assert served.environment() == {"JAN_PROVIDERS": str(file)}
    assert not served.toys  # it was asked for


async def test_what_an_upstream_left_is_forgotten_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    file = tmp_path / "providers.yaml"
    file.write_text(providers.to_yaml([providers.to_remote("http://h/v1", ["m"], with_key=True)]))
    assert (await providers.choose(None, None, [], data_at(tmp_path))).toys
    assert not file.exists()


def test_an_upstreams_file_keeps_the_key_in_the_environment() -> None:
    remote = providers.to_remote("http://h/v1", ["a/b", "${HOME}"], with_key=True)
    text = providers.to_yaml([remote])
    found = read_providers(text, environ={"OPENAI_API_KEY": "sk-secret"})
    assert "sk-secret" not in text
    assert [model.id for model in found.providers[0].models] == ["a/b", "${HOME}"]


async def test_local_models_are_served_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")  # not asked for: the models are
    shutil.copy(ROOT / "models" / "jan-tiny.gguf", tmp_path / "my model.gguf")
    monkeypatch.chdir(tmp_path)
    asked = ["my model.gguf", "big=my model.gguf", "hf:owner/repository/other.gguf"]
    served = await providers.choose(None, None, asked, data_at(tmp_path))
    models = [provider.models[0].id for provider in served.providers.providers]
    assert models == ["my-model", "big", "other"]
    paths = [found.options.path for found in served.providers.providers]  # type: ignore[union-attr]
    assert paths == [str(tmp_path / "my model.gguf")] * 2 + ["hf:owner/repository/other.gguf"]
    assert not served.toys


async def test_a_relative_model_of_a_file_lies_beside_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "models" / "jan-tiny.gguf", tmp_path / "m.gguf")
    file = tmp_path / "p.yaml"
    options = "{path: m.gguf, n_ctx: 512}"
    file.write_text(
        f"providers: [{{name: a, kind: llamacpp, models: [{{id: m}}], options: {options}}}]"
    )
    served = await providers.choose(str(file), None, [], data_at(tmp_path))
    assert served.providers.providers[0].options.path == str(tmp_path / "m.gguf")  # type: ignore[union-attr]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model", None])
async def test_a_broken_model_ends_the_start_in_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "broken.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSetup) as caught:
        await providers.choose(None, None, [str(file)], data_at(tmp_path))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["providers: [", "providers: [{name: x}]", "\x00"])
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(BadSetup) as refused:
        providers.read(tmp_path / "p.yaml", "p.yaml")
    assert str(refused.value).startswith("p.yaml")
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadSetup, match=r"p\.yaml: no such file or directory"):
        providers.read(tmp_path / "p.yaml", "p.yaml")


def test_an_upstream_that_is_no_url_is_told_in_one_line() -> None:
    with pytest.raises(BadSetup, match="begins with http"):
        providers.discover("localhost:1", "")

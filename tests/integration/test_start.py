"""What `jan` says where no server runs: starts that are refused, verbs that find nothing."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.launch import LaunchedServer, environment
from tests.support.command import jan, one_line


def test_a_port_in_use_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = jan("up", "--port", str(port), "--data", str(tmp_path / "d"))
        assert done.returncode == 3
        assert f"port {port} is in use" in one_line(done)
    assert not (tmp_path / "d" / "postgres").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--providers", "{}/bad.yaml"), "bad.yaml:1: providers[0].kind: is missing"),
        (("--providers", "{}/nothing.yaml"), "no such file"),
        (("--upstream", "http://127.0.0.1:9/v1"), "connection refused"),
        (("--model", "{}/none.gguf"), "none.gguf: there is no such file"),
        (("--model", "{}/bad.yaml"), "bad.yaml: it is not a GGUF file"),
        (("--host", "192.0.2.1"), "can't listen on 192.0.2.1"),
        (("--data", "/proc/nowhere"), "can't be written"),
    ],
)
def test_a_wrong_setup_is_told_before_anything_starts(
    tmp_path: Path, argv: tuple[str, ...], words: str
) -> None:
    (tmp_path / "bad.yaml").write_text("providers: [{name: x}]")
    given = [argument.format(tmp_path) for argument in argv]
    done = jan("up", "--port", "0", "--data", str(tmp_path / "d"), *given)
    assert done.returncode == 2
    assert words in one_line(done)
    assert not (tmp_path / "d" / "postgres").exists()


def test_a_missing_program_has_its_own_exit_code(tmp_path: Path) -> None:
    code = (
        "import sys; from cli import nats_server; from cli.__main__ import run;"
        "sys.executable = '/nowhere/python'; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "up", "--port", "0", "--data", str(tmp_path)],
        env=environment({"PATH": "/nowhere"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert "nats-server is missing" in done.stderr


def test_a_server_that_nobody_reaches_is_told(tmp_path: Path) -> None:
    done = jan(
        "up", "--port", "0", "--data", str(tmp_path), env={"JAN_NATS_URL": "nats://127.0.0.1:9"}
    )
    assert done.returncode == 1
    assert "NATS can't be reached" in done.stderr


def test_without_a_server_the_verbs_say_so(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    assert jan("ps", *data).returncode == 1
    assert jan("down", *data).returncode == 0
    doctor = jan("doctor", *data)
    assert doctor.returncode == 1
    assert "./jan up" in doctor.stdout


@pytest.mark.parametrize("member", [("worker", "inference"), ("edge",)])
def test_nothing_is_made_where_there_is_no_server_to_join(
    tmp_path: Path, member: tuple[str, ...]
) -> None:
    done = jan(*member, "--data", str(tmp_path / "typo"))
    assert done.returncode == 2
    assert done.stderr.startswith("jan: nothing says where the bus is")
    assert not (tmp_path / "typo").exists()


def test_a_start_that_fails_does_not_use_up_the_first_key(tmp_path: Path) -> None:
    server = LaunchedServer(tmp_path / "data", log=tmp_path / "log")
    failed = jan("up", "--port", "0", "--data", str(server.data), env={"JAN_SLOTS": "0"})
    assert failed.returncode == 2
    assert "JAN_SLOTS" in failed.stderr
    server.start()
    server.stop()
    assert "a first API key" in server.log.read_text()

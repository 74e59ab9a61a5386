"""`jan up` and the verbs beside it: what is started, restarted, refused, joined and stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

import msgspec
import psutil
import pytest

from cli.launch import LaunchedServer, environment
from cli.state import Process, load
from tests.support.command import jan, one_line
from tests.support.server import eventually, openai_client, running_server

KINDS = {"edge": 2, "inference": 1, "persistence": 1, "nats": 1, "postgres": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[LaunchedServer]:
    with running_server("--edges", "2") as running:
        yield running


def ps(server: LaunchedServer) -> dict[str, dict[str, Any]]:
    """What `jan ps` lists, by name."""
    rows = msgspec.json.decode(server.jan("ps", "--json").stdout, type=list[dict[str, Any]])
    return {row["name"]: row for row in rows}


def chats(url: str, key: str) -> bool:
    """Whether a chat is answered there."""
    answer = openai_client(url, key).chat.completions.create(
        model="jan-simulated", messages=[{"role": "user", "content": "Hello"}]
    )
    return bool(answer.choices[0].message.content)


def ready(server: LaunchedServer, name: str, other_than: int) -> Process | None:
    """The process of this name once a new one serves."""
    process = server.process(name)
    return process if process.pid != other_than and process.state == "ready" else None


def gone(pids: list[int]) -> bool:
    """Whether none of the processes is left."""
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_every_part_is_a_process_with_a_title_that_names_it_and_the_data(
    server: LaunchedServer,
) -> None:
    kinds = [process.kind for process in server.processes()]
    assert {kind: kinds.count(kind) for kind in KINDS} == KINDS
    for process in server.processes():
        command = " ".join(psutil.Process(process.pid).cmdline())
        assert command.startswith(f"jan: {process.name} ")
        assert str(server.data) in command


def test_everything_listens_on_this_machine_only(server: LaunchedServer) -> None:
    for process in server.processes():
        found = psutil.Process(process.pid).net_connections("inet")
        listening = {
            connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}, process.name


@pytest.mark.parametrize("name", ["inference-1", "persistence-1", "edge-2", "postgres", "nats"])
def test_a_process_that_is_killed_is_started_again(server: LaunchedServer, name: str) -> None:
    before = server.process(name)
    server.kill(name)
    after = eventually(lambda: ready(server, name, before.pid))
    assert after is not None
    assert after.port == before.port
    row = ps(server)[name]
    assert (row["pid"], row["state"], row["restarts"]) == (after.pid, "ready", after.restarts)
    assert after.restarts > before.restarts
    key = server.create_key()
    assert all(chats(url, key) for url in server.edges)


def test_a_frozen_process_is_shown_as_such(server: LaunchedServer) -> None:
    pid = server.kill("persistence-1", signal.SIGSTOP)
    try:
        assert eventually(lambda: ps(server)["persistence-1"]["state"] == "frozen")
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_second_server_on_the_same_data_is_refused(server: LaunchedServer) -> None:
    done = jan("up", "--port", "0", "--data", str(server.data))
    assert done.returncode == 2
    assert server.url in one_line(done)


def test_a_second_server_with_its_own_data_runs_beside_it(server: LaunchedServer) -> None:
    with running_server() as other:
        assert chats(other.url, other.create_key())
        assert chats(server.url, server.create_key())


def test_a_worker_and_an_edge_join_by_hand(server: LaunchedServer) -> None:
    with joined(server, "worker", "inference") as worker, joined(server, "edge", "--port", "0"):
        rows = ps(server)
        assert (rows["inference-2"]["joined"], rows["edge-3"]["joined"]) == (True, True)
        assert rows["inference-2"]["pid"] == worker.pid
        assert chats(f"http://127.0.0.1:{rows['edge-3']['port']}/v1", server.create_key())
    assert {"inference-2", "edge-3"} & set(ps(server)) == set()


class joined:
    """A process that joins a server by hand, ended with the block."""

    def __init__(self, server: LaunchedServer, *argv: str) -> None:
        self._argv = [sys.executable, "-m", "cli", *argv, "--data", str(server.data)]

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self._argv, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(b"ready: ")
        return self._process

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_a_name_that_is_taken_is_refused(server: LaunchedServer) -> None:
    done = server.jan("worker", "inference", "--name", "inference-1")
    assert done.returncode == 2
    assert b"inference-1 runs already" in done.stderr


def test_doctor_finds_a_whole_server_well(server: LaunchedServer) -> None:
    findings = eventually(lambda: diagnosis(server, 0))
    assert {"nats", "postgres", "topology", "stream JOBS", "pool simulated", "data"} <= {*findings}
    assert {"presence edge.edge-1", "presence worker.inference.inference-1"} <= {*findings}


def test_doctor_says_what_to_do_when_a_worker_is_missing(server: LaunchedServer) -> None:
    pid = server.kill("inference-1", signal.SIGSTOP)
    try:
        pool = eventually(lambda: failing(server, "pool simulated"))
        assert "jan worker inference" in pool["do"]
        assert "frozen" in failing(server, "inference-1")["says"]
    finally:
        os.kill(pid, signal.SIGCONT)


def diagnosis(server: LaunchedServer, code: int) -> dict[str, dict[str, str]]:
    """What doctor finds, by what it looked at, if it exits with this code."""
    done = server.jan("doctor", "--json")
    found = msgspec.json.decode(done.stdout, type=list[dict[str, str]])
    return {finding["what"]: finding for finding in found} if done.returncode == code else {}


def failing(server: LaunchedServer, what: str) -> dict[str, str]:
    """The finding about one thing, if it fails."""
    finding = diagnosis(server, 1).get(what, {})
    return finding if finding.get("level") == "fail" else {}


def test_logs_are_json_and_kept_for_each_process(server: LaunchedServer) -> None:
    lines = [msgspec.json.decode(line) for line in server.log.read_bytes().splitlines()]
    assert all({"ts", "level", "process", "event"} <= set(line) for line in lines)
    files = {file.stem for file in (server.data / "logs").iterdir()}
    assert {"jan", "edge-1", "nats", "postgres"} <= files


def test_secrets_are_in_no_log_file(server: LaunchedServer) -> None:
    shown = [line for line in server.log.read_text().splitlines() if "sk_live_" in line]
    assert len(shown) == 1  # the first key, where the person looks
    kept = "".join(file.read_text() for file in (server.data / "logs").iterdir())
    secrets = [file.read_text() for file in (server.data / "keys").iterdir() if file.is_file()]
    assert "sk_live_" not in kept
    assert not any(secret in kept for secret in secrets)


# From here on the tests stop the server, and all but the last start it again.


def test_state_survives_a_restart_and_stopping_leaves_nothing_behind(
    server: LaunchedServer,
) -> None:
    key = server.create_key()
    ports = server.state.record.ports
    pids = [process.pid for process in server.processes()]
    assert server.stop() == 0
    assert gone(pids)
    assert server.state.processes == []
    server.start()
    assert server.state.record.ports == ports
    assert chats(server.url, key)
    assert server.log.read_text().count("a first API key") == 1


def test_a_killed_supervisor_takes_its_processes_along_and_the_next_start_works(
    server: LaunchedServer,
) -> None:
    key = server.create_key()
    pids = [process.pid for process in server.processes()]
    os.kill(server.pid, signal.SIGKILL)
    assert eventually(lambda: gone(pids))
    assert not load(server.data).running
    server.start()
    assert chats(server.url, key)


def test_down_stops_everything_within_five_seconds(server: LaunchedServer) -> None:
    pids = [process.pid for process in server.processes()]
    begun = monotonic()
    assert server.jan("down").returncode == 0
    assert monotonic() - begun < 7  # 5, and the start of the verb on a busy machine
    assert gone(pids)
    assert server.jan("down").returncode == 0  # once more is no fault

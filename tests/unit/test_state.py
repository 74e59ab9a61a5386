"""DATA and state.json: names, addresses, ownership, and who may start."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli.exits import BadSetup
from cli.state import (
    Data,
    Process,
    Record,
    State,
    Urls,
    data_at,
    ensure_secrets,
    load,
    locked,
    nats_passwords,
    prepare,
    take_free_seat,
    take_seat,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    for name in ("JAN_NATS_URL", "JAN_DATABASE_URL", "JAN_API_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    found = data_at(tmp_path / "data")
    prepare(found)
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_record_survives_a_round_trip_and_only_its_owner_reads_it(data: Data) -> None:
    process = Process(name="edge-1", kind="edge", pid=7, port=80, state="ready")
    data.write(Record(supervisor=5, urls=Urls(edges=["http://h:1"]), processes=[process]))
    state = load(data.path)
    assert state.edges == ["http://h:1"]
    assert state.processes == [process]
    assert mode(data.state_file) == 0o600


def test_unknown_fields_of_a_later_release_are_ignored(data: Data) -> None:
    data.state_file.write_text('{"supervisor": 3, "later": [1], "processes": []}')
    assert load(data.path).record.supervisor == 3


def test_without_a_server_verbs_say_what_to_do(data: Data) -> None:
    state = load(data.path)
    assert not state.running
    with pytest.raises(BadSetup, match=r"start a server on .* first, or set JAN_NATS_URL"):
        state.nats_url("cli")
    with pytest.raises(BadSetup, match="JAN_DATABASE_URL"):
        _ = state.database_url


def test_urls_get_the_generated_credentials(data: Data) -> None:
    ensure_secrets(data)
    urls = Urls(nats="nats://127.0.0.1:4", database="postgresql+psycopg://jan@127.0.0.1:5/jan")
    state = State(data, Record(urls=urls))
    assert state.nats_url("edge") == f"nats://edge:{nats_passwords(data)['edge']}@127.0.0.1:4"
    password = (data.keys / "postgres").read_text()
    assert state.database_url == f"postgresql+psycopg://jan:{password}@127.0.0.1:5/jan"


def test_urls_of_the_persons_own_servers_stay_as_they_are(data: Data) -> None:
    ensure_secrets(data)
    urls = Urls(nats="nats://me:pw@bus:4222", database="postgresql://me:pw@db/jan")
    state = State(data, Record(urls=urls))
    assert state.nats_url("edge") == urls.nats
    assert state.database_url == urls.database


def test_the_environment_wins(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAN_NATS_URL", "nats://x:y@elsewhere:1")
    monkeypatch.setenv("JAN_DATABASE_URL", "postgresql://elsewhere/jan")
    monkeypatch.setenv("JAN_API_KEY_SECRET", "s" * 40)
    state = load(data.path)
    assert state.nats_url("edge") == "nats://x:y@elsewhere:1"
    assert state.database_url == "postgresql://elsewhere/jan"
    assert state.api_key_secret == "s" * 40


def test_secrets_are_made_once_and_kept_private(data: Data) -> None:
    ensure_secrets(data)
    files = sorted(data.keys.iterdir())
    before = [file.read_bytes() for file in files]
    ensure_secrets(data)
    assert [file.read_bytes() for file in files] == before
    assert [file.name for file in files] == [
        "api_key_secret",
        "nats.json",
        "postgres",
        "sealing_key",
    ]
    assert {mode(file) for file in files} == {0o600}
    assert mode(data.keys) == 0o700


def test_a_second_server_on_the_same_data_is_refused(data: Data) -> None:
    data.write(Record(supervisor=os.getpid(), urls=Urls(api="http://h:1/v1")))
    refused = pytest.raises(BadSetup, match=r"already runs .* http://h:1/v1")
    with locked(data), refused, locked(data):
        pass
    with locked(data):  # free again
        pass


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSetup, match=r"can't be written .*choose one with --data"):
        prepare(data_at(tmp_path / "file"))


def run_with_title(title: str) -> subprocess.Popen[bytes]:
    """A process whose command line ends in `title`, once it runs."""
    code = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, title], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize(
    ("argument", "owned"),
    [
        ("{}", True),
        ("--data={}", True),
        ("{}/nats", True),
        ("{}-other", False),
        ("/elsewhere{}", False),
        ("", False),
    ],
)
def test_only_a_process_whose_command_line_names_the_directory_is_ours(
    data: Data, argument: str, owned: bool
) -> None:
    with run_with_title(argument.format(data.path)) as process:
        try:
            assert data.owns(process.pid) is owned
        finally:
            process.kill()


def test_nobody_owns_a_process_that_is_gone(data: Data) -> None:
    with run_with_title(str(data.path)) as process:
        process.kill()
    assert not data.owns(process.pid)


def test_free_names_skip_those_of_the_supervisor_and_of_others(data: Data) -> None:
    data.write(Record(processes=[Process(name="inference-1", kind="inference", pid=1)]))
    second = take_free_seat(data, "inference")
    third = take_free_seat(data, "inference")
    assert (second.name, third.name) == ("inference-2", "inference-3")
    assert take_seat(data, "inference-2") is None
    second.leave()
    assert take_free_seat(data, "inference").name == "inference-2"


def test_a_process_that_joined_is_listed_while_it_lives(data: Data) -> None:
    seat = take_free_seat(data, "edge")
    with run_with_title(f"jan: edge-1 {data.path}") as process:
        seat.tell(Process(name=seat.name, kind="edge", pid=process.pid, joined=True))
        assert [found.name for found in load(data.path).processes] == ["edge-1"]
        process.kill()
    assert load(data.path).processes == []

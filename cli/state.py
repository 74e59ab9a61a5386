"""DATA: its layout, and state.json, from which every verb learns where the server's parts are."""

import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import msgspec
import psutil

from cli.exits import BadSetup

NATS_USERS = ("edge", "inference", "responses", "tools", "persistence", "migrate", "cli")
DATABASE_USER = "jan"
DATABASE_NAME = "jan"
ROOT = Path(__file__).resolve().parent.parent


class Process(msgspec.Struct):
    """One running process. `port` is what it listens on; `metrics_port` serves /metrics."""

    name: str
    kind: str
    pid: int
    port: int = 0
    metrics_port: int = 0
    started_at: float = 0.0
    state: str = "starting"  # starting | ready | restarting
    restarts: int = 0
    joined: bool = False  # started by hand beside the supervisor's own


class Urls(msgspec.Struct):
    """Where the parts are, without passwords unless the person's own URL has them."""

    api: str = ""
    edges: list[str] = []
    nats: str = ""
    database: str = ""


class Record(msgspec.Struct):
    """What state.json holds."""

    supervisor: int = 0
    started_at: float = 0.0
    urls: Urls = msgspec.field(default_factory=Urls)
    ports: dict[str, int] = {}  # of the embedded servers, taken again at the next start
    providers: str = ""
    processes: list[Process] = []
    v: int = 1


@dataclass(frozen=True)
class Data:
    """The data directory; `path` is absolute."""

    path: Path

    @property
    def state_file(self) -> Path:
        """The file that is rewritten whenever a process starts, stops or changes its port."""
        return self.path / "state.json"

    @property
    def keys(self) -> Path:
        """The secrets, each in a file that only the owner reads."""
        return self.path / "keys"

    @property
    def run(self) -> Path:
        """Lock files and records of running processes."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """Every process's log."""
        return self.path / "logs"

    @property
    def postgres(self) -> Path:
        """The cluster of the embedded PostgreSQL."""
        return self.path / "postgres"

    @property
    def nats(self) -> Path:
        """The store of the embedded nats-server."""
        return self.path / "nats"

    def read(self) -> Record:
        """Read state.json; an empty record if there is none, or it can't be read as one."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
            return Record()
        except PermissionError:
            raise BadSetup(f"{self.state_file} belongs to another user") from None

    def write(self, record: Record) -> None:
        """Replace state.json at once, readable by its owner only."""
        write_private(self.state_file, msgspec.json.format(msgspec.json.encode(record), indent=2))

    def owns(self, pid: int) -> bool:
        """Tell whether a process belongs to this directory: its command line names it."""
        try:
            command = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            return False
        return re.search(rf"(^|[\s=]){re.escape(str(self.path))}($|[\s/])", command) is not None


def data_at(path: str | os.PathLike[str]) -> Data:
    """Name a data directory, whether or not it exists yet."""
    return Data(Path(path).expanduser().resolve())


def default_data() -> str:
    """Where DATA is unless --data says otherwise: JAN_DATA, else `.jan` beside the script."""
    return os.environ.get("JAN_DATA") or str(ROOT / ".jan")


def prepare(data: Data) -> None:
    """Make the layout. Raises BadSetup if it can't be written."""
    # As root, PostgreSQL runs as somebody else, who must be able to walk through.
    walkable = 0o711 if os.geteuid() == 0 else 0o700
    try:
        if not data.path.exists():
            data.path.parent.mkdir(parents=True, exist_ok=True)
            data.path.mkdir(mode=walkable)
        for folder, mode in (
            (data.keys, 0o700),
            (data.nats, 0o700),
            (data.logs, 0o700),
            (data.path / "objects", 0o700),
            (data.run, walkable),
        ):
            folder.mkdir(mode=mode, exist_ok=True)
        probe = data.run / "probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadSetup(
            f"the data directory {data.path} can't be written ({reason}): choose one with --data"
        ) from None


@contextlib.contextmanager
def locked(data: Data) -> Iterator[None]:
    """Hold the directory for one supervisor. Raises BadSetup if another one has it."""
    with open(data.run / "supervisor.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = data.read()
            where = f" at {record.urls.api}" if record.urls.api else ""
            raise BadSetup(
                f"a server already runs on {data.path}{where} (pid {record.supervisor}): "
                "stop it with jan down, or choose another --data"
            ) from None
        yield


def ensure_secrets(data: Data) -> None:
    """Generate what this installation's processes prove themselves with, once."""
    _ensure_nats_passwords(data)
    _ensure(data.keys / "postgres", lambda: secrets.token_hex(20))
    _ensure(data.keys / "api_key_secret", lambda: secrets.token_hex(32))
    _ensure(data.keys / "sealing_key", lambda: secrets.token_hex(32))


def _ensure_nats_passwords(data: Data) -> None:
    """Give each user a password that has none: a release may bring new kinds of processes."""
    file = data.keys / "nats.json"
    known = nats_passwords(data) if file.exists() else {}
    # A letter first: nats-server reads what looks like a number as one.
    new = {user: "p" + secrets.token_hex(20) for user in NATS_USERS if user not in known}
    if new:
        write_private(file, json.dumps(known | new).encode())


def _ensure(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        write_private(path, make().encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file at once, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)


def nats_passwords(data: Data) -> dict[str, str]:
    """Read the password of each NATS user."""
    return msgspec.json.decode((data.keys / "nats.json").read_bytes(), type=dict[str, str])


@dataclass(frozen=True)
class State:
    """What a verb needs to reach the parts of a server."""

    data: Data
    record: Record

    @property
    def edges(self) -> list[str]:
        """The base URLs of all edges."""
        return self.record.urls.edges

    @property
    def processes(self) -> list[Process]:
        """The supervisor's processes, then those that joined by hand."""
        return [*self.record.processes, *joined(self.data)]

    @property
    def running(self) -> bool:
        """Whether the supervisor that wrote the state is alive."""
        return self.record.supervisor > 0 and self.data.owns(self.record.supervisor)

    def nats_url(self, user: str) -> str:
        """The bus's address with a user's credentials; JAN_NATS_URL wins, as it stands."""
        given = os.environ.get("JAN_NATS_URL")
        if given:
            return given
        url = self.record.urls.nats
        if not url:
            raise BadSetup(_unknown(self.data, "the bus", "JAN_NATS_URL"))
        if "@" in url or not (self.data.keys / "nats.json").exists():
            return url
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{user}:{quote(nats_passwords(self.data)[user], safe='')}@{rest}"

    @property
    def database_url(self) -> str:
        """The database's address with its password; JAN_DATABASE_URL wins, as it stands."""
        given = os.environ.get("JAN_DATABASE_URL")
        if given:
            return given
        url = self.record.urls.database
        if not url:
            raise BadSetup(_unknown(self.data, "the database", "JAN_DATABASE_URL"))
        if "@127.0.0.1:" not in url or ":" in url.split("://")[1].split("@")[0]:
            return url
        password = quote((self.data.keys / "postgres").read_text(), safe="")
        return url.replace("@", f":{password}@", 1)

    @property
    def api_key_secret(self) -> str:
        """What API keys are hashed with; JAN_API_KEY_SECRET wins."""
        given = os.environ.get("JAN_API_KEY_SECRET")
        if given:
            return given
        file = self.data.keys / "api_key_secret"
        if not file.exists():
            raise BadSetup(_unknown(self.data, "the secret of the API keys", "JAN_API_KEY_SECRET"))
        return file.read_text().strip()

    @property
    def sealing_key(self) -> str:
        """What secrets in jobs are sealed with; JAN_SEALING_KEY wins, empty if there is none."""
        given = os.environ.get("JAN_SEALING_KEY")
        if given:
            return given
        file = self.data.keys / "sealing_key"
        return file.read_text().strip() if file.exists() else ""


def _unknown(data: Data, what: str, variable: str) -> str:
    return f"nothing says where {what} is: start a server on {data.path} first, or set {variable}"


def load(data: str | os.PathLike[str]) -> State:
    """Read the state of the server in a data directory, running or not."""
    place = data_at(data)
    return State(place, place.read())


def joined(data: Data) -> list[Process]:
    """The live processes that were started by hand on this directory."""
    found = []
    for file in sorted(data.run.glob("*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            process = msgspec.json.decode(file.read_bytes(), type=Process)
            if data.owns(process.pid):
                found.append(process)
    return found


class Seat:
    """A process's name, held as long as the process lives, so that no two share one.

    A file lock: it falls with the process, however it dies. `taken` by hand, the file also
    tells `jan ps` about the process.
    """

    def __init__(self, data: Data, name: str, file: IO[str]) -> None:
        self.name = name
        self._record = data.run / f"{name}.json"
        self._file = file

    def tell(self, process: Process) -> None:
        """Let the other verbs see the process."""
        write_private(self._record, msgspec.json.encode(process))

    def leave(self) -> None:
        """Give the name back."""
        self._record.unlink(missing_ok=True)
        self._file.close()


def take_seat(data: Data, name: str) -> Seat | None:
    """Take a name; None if a live process has it."""
    data.run.mkdir(parents=True, exist_ok=True)
    file = open(data.run / f"{name}.lock", "a+")  # noqa: SIM115 - open as long as the seat is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return Seat(data, name, file)


def take_free_seat(data: Data, kind: str) -> Seat:
    """Take the first free name of a kind: `inference-1`, `inference-2`, …"""
    supervised = {process.name for process in data.read().processes}
    number = 1
    while True:
        name = f"{kind}-{number}"
        seat = None if name in supervised else take_seat(data, name)
        if seat is not None:
            return seat
        number += 1

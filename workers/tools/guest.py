"""What runs inside the sandbox, as a program of its own: it needs nothing but Python's library.

It gets the code and the files on stdin, runs the code as a child within limits, and hands back the
files that the code made on the descriptor of its first argument. The code may do to this program
whatever it likes: who started the sandbox believes nothing of what comes out of it.
"""

import hashlib
import itertools
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

WORK = "/work"
CODE = "/run/code.py"
SKIPPED = ("__pycache__",)
DEEPEST = 32  # folders in each other that are looked into
MOST_SEEN = 1000  # files that are looked at


def main() -> None:
    """Take what comes, run it, hand back what it made."""
    orders = json.loads(sys.stdin.buffer.readline())
    with open(CODE, "wb") as file:
        file.write(sys.stdin.buffer.read(orders["code"]))
    known = {}
    for name, size in orders["files"]:
        data = sys.stdin.buffer.read(size)
        put(os.path.join(WORK, name), data)
        known[name] = hashlib.sha256(data).digest()
    code = run(orders)
    with open(int(sys.argv[1]), "wb") as out:
        hand_back(out, code, known, orders)


def put(path: str, data: bytes) -> None:
    """Write a new file. No code has run yet: there is no link that could lead out."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(data)


def run(orders: dict[str, Any]) -> int:
    """Run the code; its exit code, negative for the signal that ended it."""

    def limit() -> None:
        for name, most in orders["limits"].items():
            resource.setrlimit(getattr(resource, name), (most, most))

    child = subprocess.Popen(
        [sys.executable, "-s", "-B", CODE],
        stdin=subprocess.DEVNULL,
        cwd=WORK,
        preexec_fn=limit,  # noqa: PLW1509 - this program has no threads
    )
    return child.wait()


def hand_back(out: BinaryIO, code: int, known: dict[str, bytes], orders: dict[str, Any]) -> None:
    """Write a line that says what follows, then the files one after the other."""
    found: list[tuple[str, bytes]] = []
    left_out = 0
    room = orders["max_bytes"]
    for name, folder in itertools.islice(plain_files(), MOST_SEEN):
        data = read(os.path.basename(name), folder, min(orders["max_file"], room))
        if data is None or len(found) == orders["max_files"]:
            left_out += 1
        elif known.get(name) != hashlib.sha256(data).digest():
            found.append((name, data))
            room -= len(data)
    report = {
        "code": code,
        "left_out": left_out,
        "files": [[printed(name), len(data)] for name, data in found],
    }
    out.write(json.dumps(report).encode() + b"\n")
    for _, data in found:
        out.write(data)


def plain_files() -> Iterator[tuple[str, int]]:
    """Every plain file by its path below WORK, with the descriptor of the folder that it is in.

    Nothing is reached by way of a link, also if what the code left running makes links meanwhile.
    """
    for path, folders, names, folder in os.fwalk(WORK):
        deep = path.count("/") > DEEPEST
        folders[:] = [] if deep else sorted(filter(is_shown, folders))
        for name in sorted(filter(is_shown, names)):
            if is_plain(name, folder):
                yield os.path.relpath(os.path.join(path, name), WORK), folder


def is_shown(name: str) -> bool:
    """Whether a file or a folder is for others to see."""
    return name not in SKIPPED and not name.startswith(".")


def is_plain(name: str, folder: int) -> bool:
    """Whether it is a file, and no link or anything special."""
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def printed(name: str) -> str:
    """A name in which bytes that are no UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def read(name: str, folder: int, most: int) -> bytes | None:
    """Read a plain file that is not too large; None otherwise."""
    try:
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, how, dir_fd=folder)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            return None
        return file.read(most)


if __name__ == "__main__":
    main()

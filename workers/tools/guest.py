"""What runs inside the sandbox, as a program of its own: it needs nothing but Python's library.

It gets the code and the files on stdin, runs the code as a child within limits, and hands back the
files that the code made on the descriptor of its first argument. The code may do to this program
whatever it likes: who started the sandbox believes nothing of what comes out of it.
"""

import hashlib
import json
import os
import resource
import stat
import subprocess
import sys
from typing import Any, BinaryIO

WORK = "/work"
CODE = "/run/code.py"
SKIPPED = ("__pycache__",)


def main() -> None:
    """Take what comes, run it, hand back what it made."""
    orders = json.loads(sys.stdin.buffer.readline())
    with open(CODE, "wb") as file:
        file.write(sys.stdin.buffer.read(orders["code"]))
    known = {}
    for name, size in orders["files"]:
        data = sys.stdin.buffer.read(size)
        with open(os.path.join(WORK, name), "wb") as file:
            file.write(data)
        known[name] = hashlib.sha256(data).digest()
    code = run(orders)
    with open(int(sys.argv[1]), "wb") as out:
        hand_back(out, code, known, orders)


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
    for path in regular_files(WORK):
        name = os.path.relpath(path, WORK)
        data = read(path, min(orders["max_file"], room))
        if data is None or len(found) == orders["max_files"]:
            left_out += 1
        elif known.get(name) != hashlib.sha256(data).digest():
            found.append((name, data))
            room -= len(data)
    report = {
        "code": code,
        "left_out": left_out,
        "files": [[name.encode("utf-8", "replace").decode(), len(data)] for name, data in found],
    }
    out.write(json.dumps(report).encode() + b"\n")
    for _, data in found:
        out.write(data)


def regular_files(folder: str) -> list[str]:
    """Every plain file below a folder, links and special files left alone."""
    files: list[str] = []
    folders = [folder]
    while folders and len(files) < 1000:
        for entry in sorted(os.scandir(folders.pop()), key=lambda entry: entry.name):
            if entry.is_symlink() or entry.name in SKIPPED or entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                files.append(entry.path)
    return files


def read(path: str, most: int) -> bytes | None:
    """Read a plain file that is not too large; None otherwise."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            return None
        return file.read(most)


if __name__ == "__main__":
    main()

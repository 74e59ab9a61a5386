"""The `jan` command as a person runs it."""

import subprocess
import sys

from cli.launch import environment


def jan(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *argv],
        env=environment(env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why it did not start: nothing else stands on stderr."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("jan: ")
    return lines[0]

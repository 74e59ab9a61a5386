"""Servers that are installed beside this Python."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Find a server's binary; without it skip the test, or fail in CI."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is not None:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    pytest.skip(f"{name} is not installed")

"""The lock file: every package pinned with hashes, and no address of a registry in it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def entries() -> list[str]:
    """Each package's lines, comments left out, joined to one."""
    text = "\n".join(line for line in LOCK.splitlines() if not line.lstrip().startswith("#"))
    return [entry for entry in text.replace("\\\n", " ").splitlines() if entry.strip()]


def locked_names() -> set[str]:
    """The names that are locked, in their normal form."""
    return {normal(re.split(r"[=\s\[;]", entry, maxsplit=1)[0]) for entry in entries()}


def normal(name: str) -> str:
    """A package's name in its normal form."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_is_pinned_with_a_hash() -> None:
    loose = [entry for entry in entries() if "==" not in entry or "--hash=sha256:" not in entry]
    assert loose == []


def test_the_lock_holds_no_address() -> None:
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", LOCK)


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {normal(re.split(r"[\s\[<>=!;~]", line, maxsplit=1)[0]) for line in wanted}
    assert names - locked_names() == set()


def test_no_other_lock_is_tracked() -> None:
    """uv.lock and pylock.toml write the registry's address into every entry."""
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {"uv.lock", "pylock.toml"} <= set(ignored)

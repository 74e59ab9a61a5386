"""./jan makes the environment that requirements.lock says, and leaves alone what else is in it."""

import hashlib
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_a_person_installed_survives_a_new_lock(tmp_path: Path, installer: str) -> None:
    if installer == "uv" and not UV.exists():
        pytest.skip("this environment was made by pip")
    checkout, wheels = tmp_path / "checkout", tmp_path / "wheels"
    _make_checkout(checkout)
    wheels.mkdir()
    old, new = _make_wheel(wheels, "locked", "1"), _make_wheel(wheels, "locked", "2")
    _make_wheel(wheels, "own", "1")
    if installer == "uv":
        (checkout / ".venv/bin/uv").symlink_to(UV)

    _start(checkout, wheels, f"locked==1 --hash=sha256:{old}")
    _run([str(checkout / ".venv/bin/pip"), "install", "own"], wheels)
    said = _start(checkout, wheels, f"locked==2 --hash=sha256:{new}")
    assert ("trying pip" in said) == (installer == "pip")
    frozen = _run([str(checkout / ".venv/bin/pip"), "freeze"], wheels).stdout.split()
    assert {"locked==2", "own==1"} <= set(frozen)


def _make_checkout(folder: Path) -> None:
    """A folder with ./jan, an environment, and nothing that it could run but a word."""
    (folder / "cli").mkdir(parents=True)
    (folder / "cli/__main__.py").write_text("print('started')\n")
    shutil.copy(ROOT / "jan", folder)
    venv.create(folder / ".venv", with_pip=True)


def _make_wheel(folder: Path, name: str, version: str) -> str:
    """Write a package with nothing in it; returns its hash."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _start(checkout: Path, wheels: Path, lock: str) -> str:
    (checkout / "requirements.lock").write_text(lock + "\n")
    done = _run([str(checkout / "jan")], wheels)
    assert done.stdout == "started\n"
    return done.stderr


def _run(command: list[str], wheels: Path) -> subprocess.CompletedProcess[str]:
    """Run with the folder of wheels as the only index, by pip's settings."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "JAN_PYTHON": sys.executable,
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "UV_NO_CONFIG": "1",
    }
    done = subprocess.run(
        command,
        check=False,
        cwd=wheels,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done

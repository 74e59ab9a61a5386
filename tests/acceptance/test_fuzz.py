"""Requests that schemathesis makes out of our own OpenAPI document."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli.launch import LaunchedServer

SECONDS = 30


@pytest.mark.requirement("input.fuzz")
def test_no_generated_request_is_a_fault_of_ours(
    server: LaunchedServer, api_key: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {api_key}"),
            *("--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing"),
            *("--max-time", str(SECONDS), "--request-timeout", "20", "--workers", "1"),
            *("--seed", "1", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()[-6000:] + done.stderr.decode()[-2000:]

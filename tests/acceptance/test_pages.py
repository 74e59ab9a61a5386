"""The pages, in a real browser: what a person sees, without the internet."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cli.launch import LaunchedServer

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
    "--dump-dom",
)


def rendered(url: str, profile: Path) -> str:
    """What the page is after its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    done = subprocess.run(
        [browser, *FLAGS, f"--user-data-dir={profile}", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.requirement("health.pages")
def test_the_home_page_shows_live_health(server: LaunchedServer, tmp_path: Path) -> None:
    page = rendered(f"{server.url.removesuffix('/v1')}/", tmp_path)
    assert '<span id="status">ready</span>' in page
    assert page.count('class="dot ok"') >= 4
    assert f"{server.url}" in page
    assert 'href="/v1/swagger/index.html"' in page


@pytest.mark.requirement("health.pages")
def test_swagger_lists_the_operations(server: LaunchedServer, tmp_path: Path) -> None:
    page = rendered(f"{server.url}/swagger/index.html", tmp_path)
    for path in ("/v1/chat/completions", "/v1/embeddings", "/auth/guest"):
        assert f'data-path="{path}"' in page

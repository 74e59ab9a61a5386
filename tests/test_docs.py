"""The documentation: generated parts are up to date, and what it points to exists."""

import re
from pathlib import Path

import pytest

from docs.generate import DOCUMENTS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("nats/*.md")])


@pytest.mark.parametrize("path", sorted(DOCUMENTS))
def test_a_generated_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text() == DOCUMENTS[path](), "run `just docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_setting_says_why_its_default_is_what_it_is() -> None:
    rows = [line for line in DOCUMENTS["docs/settings.md"]().splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == []

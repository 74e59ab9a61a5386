"""What an edge may be told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.settings import EdgeSettings

GOOD = "5f" * 32


@pytest.mark.parametrize("secret", ["", "short", "change-me-" + GOOD, "secret" * 10])
def test_a_sample_secret_is_refused_outside_development(tmp_path: Path, secret: str) -> None:
    with pytest.raises(ValidationError, match="JAN_API_KEY_SECRET"):
        EdgeSettings(data=tmp_path, api_key_secret=secret)
    EdgeSettings(data=tmp_path, api_key_secret=secret, environment="development")


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    settings = EdgeSettings(data=tmp_path, api_key_secret=GOOD)
    assert GOOD not in repr(settings)
    assert settings.key_secret == GOOD.encode()


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAN_CORS_ORIGINS", "http://a, http://b")
    assert EdgeSettings(api_key_secret=GOOD).cors_origins == ["http://a", "http://b"]


def test_every_setting_gives_its_reason() -> None:
    unexplained = [
        name
        for name, field in EdgeSettings.model_fields.items()
        if len(field.description or "") < 20
    ]
    assert unexplained == []

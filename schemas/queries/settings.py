"""The question what somebody has set, `query.settings.get`."""

from schemas.queries import Ask


class AskSettings(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.settings.get`: what the asker has set."""

"""Moments in the past, as people type them."""

import argparse
import re
import time
from datetime import UTC, datetime

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def past_moment(text: str) -> float:
    """Read `10m`, `2h`, `3d` (ago) or a time in ISO 8601 (UTC, if it does not say) as seconds."""
    ago = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if ago:
        return time.time() - int(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: 10m, 2h, 3d, or one such as 2026-11-24T10:00 (UTC)"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def show_moment(at: float) -> str:
    """Write a time as lists show it, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")

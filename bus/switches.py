"""What operators say of the server's tools, by their names."""

from typing import Final

import msgspec
import structlog

from schemas.tools import Switch, decode_switch

logger = structlog.get_logger()

_ON: Final = Switch()
_OFF: Final = Switch(enabled=False)


class Switches:
    """The switches in the bucket `tools`; a tool that has none is on."""

    def __init__(self) -> None:
        self._switches: dict[str, Switch] = {}

    def find(self, name: str) -> Switch:
        """What an operator says of a tool."""
        return self._switches.get(name, _ON)

    def set(self, name: str, value: bytes | None) -> None:
        """Take what an operator says now; what can't be read leaves the tool switched off."""
        if value is None:
            self._switches.pop(name, None)
            return
        try:
            self._switches[name] = decode_switch(value)
        except msgspec.DecodeError as error:
            logger.warning("a switch can't be read: its tool is off", tool=name, error=str(error))
            self._switches[name] = _OFF

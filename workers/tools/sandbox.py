"""placeholder"""

from workers.tools.settings import ToolsSettings


class Sandbox:
    lacks = "no sandbox"


async def open_sandbox(settings: ToolsSettings) -> Sandbox:  # noqa: ARG001
    return Sandbox()

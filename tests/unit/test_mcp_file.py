"""mcp.yaml: read strictly, with errors that name the line."""

import pytest

from workers.tools.mcp.file import McpFileError, read_mcp_file
from workers.tools.mcp.servers import tool_name

GOOD = """
servers:
  - label: github
    url: https://mcp.example/mcp
    headers: {Authorization: "Bearer ${TOKEN}"}
    exclude: ["delete_*"]
  - label: files
    command: npx
    args: [-y, server]
    timeout_s: 10
"""


def test_a_file_is_read_with_its_variables() -> None:
    github, files = read_mcp_file(GOOD, environ={"TOKEN": "t"}).servers
    assert github.headers == {"Authorization": "Bearer t"}
    assert github.wants("read")
    assert not github.wants("delete_all")
    assert files.command == "npx"
    assert "Bearer" not in repr(github)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("servers:\n  - label: a\n    urll: x", "mcp.yaml:3: servers[0].urll: unknown key"),
        ("servers:\n  - label: a", "needs a url or a command"),
        ("servers:\n  - {label: a, url: 'http://x', command: y}", "and not both"),
        ("servers:\n  - {label: A b, url: 'http://x'}", "lower-case letters"),
        ("servers:\n  - {label: a, url: 'ftp://x'}", "begins with http"),
        ("servers:\n  - {label: a, url: 'http://u:p@x'}", "without a user"),
        ("servers:\n  - {label: a, url: '${NOT_SET}'}", "the variable NOT_SET is not set"),
        ("servers:\n  - {label: a, command: x}\n  - {label: a, command: x}", "mcp.yaml:3"),
        ("- x", "needs a list"),
        ("servers: {", "mcp.yaml:1"),
    ],
)
def test_an_error_names_what_is_wrong(text: str, error: str) -> None:
    with pytest.raises(McpFileError) as caught:
        read_mcp_file(text, environ={})
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_such_that_functions_can_have() -> None:
    names = [tool_name("a", tool) for tool in ("plain", "with space", "with/space", "x" * 100)]
    assert names[0] == "a__plain"
    assert len(set(names)) == 4
    assert all(len(name) <= 64 and name.replace("-", "_").isidentifier() for name in names)

"""The API's description says what the routes do."""

from collections.abc import Iterator

from starlette.routing import Route

from edge.app import create_routes
from edge.openapi.document import OPERATIONS, describe

# Pages, the description itself, and what speaks another protocol.
UNDESCRIBED = {"/", "/v1/openapi.json", "/v1/swagger", "/mcp", "/v1/mcp"}


def served() -> Iterator[tuple[str, str]]:
    for route in create_routes():
        if isinstance(route, Route) and route.path not in UNDESCRIBED:
            path = route.path.replace(":path}", "}")
            yield from ((path, method.lower()) for method in route.methods or ())


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(operation.path, operation.method) for operation in OPERATIONS}
    assert {(path, method) for path, method in served() if method != "head"} == described


def test_operations_have_different_names() -> None:
    names = [operation.name for operation in OPERATIONS]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere() -> None:
    document = describe()
    schemas = document["components"]["schemas"]
    found: list[str] = []

    def look(value: object) -> None:
        match value:
            case {"$ref": str(reference)}:
                found.append(reference)
            case dict():
                for item in value.values():
                    look(item)
            case list():
                for item in value:
                    look(item)

    look(document)
    assert "#/components/schemas/ChatRequest" in found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(schemas)


def test_constraints_of_requests_are_told() -> None:
    fields = describe()["components"]["schemas"]["ChatRequest"]["properties"]
    assert fields["messages"]["maxItems"] == 4096
    assert {"type": "number", "minimum": 0.0, "maximum": 2.0} in fields["temperature"]["anyOf"]


def test_operations_under_v1_ask_for_a_credential() -> None:
    paths = describe()["paths"]
    for path, methods in paths.items():
        for method in methods.values():
            private = path.startswith("/v1/") and not path.startswith("/v1/public/")
            assert bool(method["security"]) == (private or path == "/auth/me")

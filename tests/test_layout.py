"""The layout's rules: who may import whom, and what must never shadow the NATS client."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "bus", "edge", "workers", "cli")
RUNTIME = "workers.runtime"  # what every worker shares


def owner_of(module: str) -> str:
    """Find whose module this is: a package of ours, or one worker (`workers.inference`)."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "workers" else parts[0]


def may_import(owner: str) -> set[str] | None:
    """Which owners this owner may import besides itself; None means every one."""
    match owner:
        case "schemas":
            return set()
        case "bus":
            return {"schemas"}
        case "edge" | "workers" | "workers.runtime":
            return {"schemas", "bus"}
        case "cli":
            return None
        case _:  # one worker
            return {"schemas", "bus", "workers", RUNTIME}


def module_name(path: Path) -> str:
    """Turn a file's path into the name it is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Name every module of ours that the code imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def imports_of(module: str) -> set[str]:
    """All modules of ours that this one imports."""
    tree = ast.parse(MODULES[module].read_bytes())
    return {name for name in imports(tree) if name.split(".")[0] in PACKAGES}


def imports_on_load(module: str) -> set[str]:
    """What is imported while the module is loaded: not what its functions import later."""
    tree = ast.parse(MODULES[module].read_bytes())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree.body = [node for node in tree.body if not isinstance(node, (*functions, ast.If))]
    return {name for name in imports(tree) if name in MODULES}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Find one cycle in a graph, or nothing."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            if cycle := visit(following, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(graph) if (cycle := visit(node, []))), [])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_what_the_import_law_allows(module: str) -> None:
    owner = owner_of(module)
    allowed = may_import(owner)
    if allowed is None:
        return
    forbidden = {
        name
        for name in imports_of(module)
        if owner_of(name) != owner and owner_of(name) not in allowed
    }
    assert not forbidden, f"{module} imports {sorted(forbidden)}"


def test_no_relative_import_hides_a_dependency() -> None:
    relative = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_modules_import_each_other_in_one_direction() -> None:
    assert cycle_in({module: imports_on_load(module) - {module} for module in MODULES}) == []


def test_packages_import_each_other_in_one_direction() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        owner = owner_of(module)
        graph.setdefault(owner, set()).update(map(owner_of, imports_of(module)))
        graph[owner].discard(owner)
    assert cycle_in(graph) == []


def test_a_cycle_is_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_python_lies_under_nats() -> None:
    """A package named `nats` here would shadow the client's on some machines only."""
    assert list(ROOT.glob("nats/**/*.py")) == []


def test_no_test_folder_is_named_nats() -> None:
    assert list(ROOT.glob("tests/**/nats")) == []


def test_every_tests_folder_is_a_package() -> None:
    folders = {path.parent for path in ROOT.glob("tests/**/*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_import_sorting_knows_nats_as_a_third_party() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "nats" in settings["tool"]["ruff"]["lint"]["isort"]["known-third-party"]


def test_the_generic_package_names_stay_off_the_public_index() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "Private :: Do Not Upload" in settings["project"]["classifiers"]


@pytest.mark.parametrize("name", ["utils", "core", "common", "helpers"])
def test_no_package_is_named_for_nothing(name: str) -> None:
    named = [path for package in PACKAGES for path in ROOT.glob(f"{package}/**/{name}*")]
    assert [path for path in named if path.stem == name] == []

"""The YAML files that people write: read with the line of each part, so that an error names it.

`${NAME}` in a value stands for a variable of the environment, `$${` for a literal `${`. An error is
one line: the file, the line, the key, what is wrong.
"""

import difflib
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Document:
    """A YAML text as plain data, with the line of each part.

    `to_error` turns pydantic's findings into words: `parts` are the models whose keys may be meant
    by an unknown one, `patterns` says what a field with a pattern wants, `kinds` are the tags of
    its unions.
    """

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        fault: type[ValueError],
        *,
        parts: Sequence[type[BaseModel]],
        patterns: Mapping[str, str],
        kinds: Container[str] = (),
    ) -> None:
        self._name = name
        self._environ = environ
        self._fault = fault
        self._parts = parts
        self._patterns = patterns
        self._kinds = kinds
        self._lines: dict[Location, int] = {}
        self._loader: yaml.SafeLoader

    def read(self, text: str) -> Any:
        """Read the text, with its variables expanded. Raises the fault that it was made with."""
        try:
            self._loader = yaml.SafeLoader(text)
            node = self._loader.get_single_node()
            return None if node is None else self._build(node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark else ""
            raise self._fault(f"{self._name}{line}: {error.problem or error.context}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            if isinstance(error, self._fault):
                raise
            line_of_text = str(error).splitlines()[0]
            raise self._fault(f"{self._name}: not a YAML text: {line_of_text}") from None

    def error(self, path: Location, message: str) -> ValueError:
        """Say what is wrong at a path, with the line of the nearest part that exists."""
        known = path
        while known and known not in self._lines:
            known = known[:-1]
        line = self._lines.get(known, 1)
        return self._fault(f"{self._name}:{line}: {_dotted(path)}: {message}")

    def to_error(self, error: ValidationError) -> ValueError:
        """Turn pydantic's first finding, in the order of the file, into one line."""
        found = [(self._to_path(fault["loc"]), fault) for fault in error.errors()]
        path, fault = min(found, key=lambda pair: self._line_before(pair[0]))
        match fault["type"]:
            case "extra_forbidden":
                return self.error(path, "unknown key" + _suggestion(str(path[-1]), self._parts))
            case "missing":
                return self.error(path, "is missing")
            case "union_tag_not_found":
                return self.error((*path, "kind"), "is missing")
            case "union_tag_invalid":
                kinds = fault["ctx"]["expected_tags"].replace("'", "")
                return self.error((*path, "kind"), f"must be one of {kinds}")
            case "string_pattern_mismatch":
                return self.error(path, self._patterns.get(str(path[-1]), fault["msg"]))
            case _:
                return self.error(path, fault["msg"].removeprefix("Value error, "))

    def _line_before(self, path: Location) -> int:
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _to_path(self, loc: Location) -> Location:
        """Pydantic's location without the names of the kinds that it passes through."""
        kinds = self._kinds
        return tuple(part for index, part in enumerate(loc) if index != 2 or part not in kinds)

    def _build(self, node: yaml.Node, path: Location, inside: tuple[int, ...]) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in inside:
            raise self.error(path, "a part can't contain itself")
        inside = (*inside, id(node))
        match node:
            case yaml.MappingNode():
                return self._build_mapping(node, path, inside)
            case yaml.SequenceNode():
                return [
                    self._build(item, (*path, index), inside)
                    for index, item in enumerate(node.value)
                ]
            case _:
                value = self._loader.construct_object(node)
                return self._expand(value, path) if isinstance(value, str) else value

    def _build_mapping(
        self, node: yaml.MappingNode, path: Location, inside: tuple[int, ...]
    ) -> Any:
        self._loader.flatten_mapping(node)
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            self._lines[*path, key] = key_node.start_mark.line + 1
            if key in built:
                raise self.error((*path, key), "is there twice")
            built[key] = self._build(value_node, (*path, key), inside)
        return built

    def _expand(self, text: str, path: Location) -> str:
        def value_of(match: re.Match[str]) -> str:
            try:
                return self._environ[match[1]]
            except KeyError:
                raise self.error(path, f"the variable {match[1]} is not set") from None

        parts = text.split("$${")
        return "${".join(_VARIABLE.sub(value_of, part) for part in parts)


def _dotted(path: Location) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the file"


def _suggestion(key: str, parts: Sequence[type[BaseModel]]) -> str:
    known = {field for part in parts for field in part.model_fields}
    if key in known:
        return " here: it belongs to another part"
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""

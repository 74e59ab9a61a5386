"""Makes up values that fit a JSON schema."""

import math
import re
import string
from random import Random
from typing import Any

from workers.inference.engines.simulation.sentences import word

_DEPTH_TO_SAVE = 4  # below it only what is required, so that recursive schemas end
_DEPTH_LIMIT = 40
_WORK_TO_SAVE = 1_000  # values; above it likewise
_WORK_LIMIT = 20_000
_SIZE_LIMIT = 10_000

_FORMATS = {
    "date-time": "2024-05-01T12:30:00Z",
    "date": "2024-05-01",
    "time": "12:30:00Z",
    "duration": "PT15M",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "host.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/page",
    "uri-reference": "/page",
    "iri": "https://example.com/page",
    "uuid": "7b7c9ba4-4f3a-4d0e-9d51-1f0c5f1f8a01",
    "json-pointer": "/a/b",
    "regex": "^[a-z]+$",
}

Schema = dict[str, Any]


class UnfillableError(ValueError):
    """No value was found that fits the schema."""


def fill(schema: object, random: Random) -> Any:
    """Make up a value that fits the schema; raises UnfillableError."""
    try:
        return _Filler(schema, random).fill(schema, 0)
    except (TypeError, AttributeError, LookupError, ArithmeticError, re.error) as error:
        raise _unfillable(f"a keyword has a value of the wrong kind ({error})") from error


class _Filler:
    def __init__(self, root: object, random: Random) -> None:
        self._root = root
        self._random = random
        self._work = 0

    def fill(self, schema: object, depth: int) -> Any:
        self._work += 1
        if depth > _DEPTH_LIMIT or self._work > _WORK_LIMIT:
            raise _unfillable("it refers to itself without an end")
        schema = self._flatten(_as_schema(schema), depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self._random.choice(schema["enum"])
        for many in ("anyOf", "oneOf"):
            if schema.get(many):
                return self._fill_one_of(schema, many, depth)
        return self._fill_type(self._type_of(schema, depth), schema, depth)

    def _fill_type(self, name: object, schema: Schema, depth: int) -> Any:
        value: Any = None
        match name:
            case "object":
                value = self._object(schema, depth)
            case "array":
                value = self._array(schema, depth)
            case "string":
                value = self._string(schema)
            case "integer":
                value = self._integer(schema)
            case "number":
                value = self._number(schema)
            case "boolean":
                value = self._random.random() < 0.5
            case "null":
                pass
            case _:
                raise _unfillable(f"{name!r} is no type")
        return value

    def _saves(self, depth: int) -> bool:
        """Tell whether only what must be there is filled in, so that recursion ends."""
        return depth > _DEPTH_TO_SAVE or self._work > _WORK_TO_SAVE

    def _flatten(self, schema: Schema, depth: int) -> Schema:
        """Put what `$ref` and `allOf` bring in into one schema."""
        for _ in range(_DEPTH_LIMIT):
            if "$ref" in schema:
                others = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merge(self._resolve(schema["$ref"]), others)
            elif schema.get("allOf"):
                others = {key: value for key, value in schema.items() if key != "allOf"}
                for part in schema["allOf"]:
                    others = _merge(others, self._flatten(_as_schema(part), depth + 1))
                schema = others
            else:
                return schema
        raise _unfillable("its references go in a circle")

    def _resolve(self, reference: object) -> Schema:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _unfillable(f"{reference!r} is not a reference into it")
        found = self._root
        for part in filter(None, reference[1:].split("/")):
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise _unfillable(f"{reference} is not in it")
        return _as_schema(found)

    def _fill_one_of(self, schema: Schema, many: str, depth: int) -> Any:
        """Fill one of the variants; deep down, the plainest that can be filled."""
        base = {key: value for key, value in schema.items() if key != many}
        variants = list(schema[many])
        if self._saves(depth):
            variants.sort(key=_weight)
        else:
            self._random.shuffle(variants)
        for variant in variants:
            try:
                return self.fill(_merge(base, _as_schema(variant)), depth + 1)
            except UnfillableError:
                continue
        raise _unfillable(f"none of its {many} can be filled")

    def _type_of(self, schema: Schema, depth: int) -> object:
        named = schema.get("type")
        if isinstance(named, list):
            if self._saves(depth) and "null" in named:
                return "null"
            others = [name for name in named if name != "null"]
            return self._random.choice(others) if others else "null"
        if named is not None:
            return named
        for name, keys in _TELLING_KEYS.items():
            if any(key in schema for key in keys):
                return name
        return "string"

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = list(schema.get("required") or ())
        save = self._saves(depth)
        names = required if save else [*properties, *(n for n in required if n not in properties)]
        more = schema.get("additionalProperties", True)
        filled: dict[str, Any] = {}
        for name in names:
            try:
                filled[name] = self.fill(self._property(schema, name), depth + 1)
            except UnfillableError:
                if name in required:
                    raise
        least = _size(schema.get("minProperties", 0))
        for number in range(least - len(filled)):
            filled[f"key{number + 1}"] = self.fill(more, depth + 1)
        if not names and not filled and isinstance(more, dict) and not save:
            filled[word(self._random)] = self.fill(more, depth + 1)
        return filled

    def _property(self, schema: Schema, name: str) -> object:
        properties = schema.get("properties") or {}
        if name in properties:
            return properties[name]
        for pattern, part in (schema.get("patternProperties") or {}).items():
            if re.search(pattern, name):
                return part
        return schema.get("additionalProperties", True)

    def _array(self, schema: Schema, depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        items = schema.get("items", True)
        if isinstance(items, list):  # before draft 2020
            first, items = items, schema.get("additionalItems", True)
        least = _size(schema.get("minItems", 0))
        wanted = least if self._saves(depth) else max(least, self._random.randint(1, 3))
        most = schema.get("maxItems", _SIZE_LIMIT)
        filled = [self.fill(part, depth + 1) for part in first[:most]]
        if "contains" in schema:
            filled.append(self.fill(schema["contains"], depth + 1))
        tries = 0
        while len(filled) < min(wanted, most) and items is not False:
            value = self.fill(items, depth + 1)
            if not schema.get("uniqueItems") or value not in filled:
                filled.append(value)
            elif (tries := tries + 1) > 200:
                break
        if len(filled) < least:
            raise _unfillable("an array can't be made long enough")
        return filled

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema:
            return _from_pattern(schema["pattern"], self._random)
        text = _FORMATS.get(schema.get("format", "")) or word(self._random)
        least = _size(schema.get("minLength", 0))
        while len(text) < least:
            text += " " + word(self._random)
        return text[: schema.get("maxLength", len(text))]

    def _integer(self, schema: Schema) -> int:
        low, high = _bounds(schema, 1)
        step = schema.get("multipleOf", 1)
        step = step if isinstance(step, int) and step > 0 else 1
        first, last = math.ceil(low / step), math.floor(high / step)
        if first > last:
            raise _unfillable("no integer is in its bounds")
        return self._random.randint(first, last) * step

    def _number(self, schema: Schema) -> float:
        if "multipleOf" in schema:
            step = schema["multipleOf"]
            low, high = _bounds(schema, step)
            first, last = math.ceil(low / step), math.floor(high / step)
            if first > last:
                raise _unfillable("no number is in its bounds")
            value: float = self._random.randint(first, last) * step
            return value
        low, high = _bounds(schema, 0)
        if low > high:
            raise _unfillable("no number is in its bounds")
        middle = low + (high - low) * self._random.uniform(0.25, 0.75)
        rounded = round(middle, 2)
        return rounded if low < rounded < high else middle


_TELLING_KEYS = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "contains"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _unfillable(why: str) -> UnfillableError:
    return UnfillableError(f"the JSON schema can't be filled: {why}")


def _as_schema(part: object) -> Schema:
    if part is True:
        return {}
    if not isinstance(part, dict):
        raise _unfillable("a part of it is no schema")
    return part


def _size(number: Any) -> int:
    if not isinstance(number, int) or number > _SIZE_LIMIT:
        raise _unfillable(f"it asks for more than {_SIZE_LIMIT} of something")
    return number


def _weight(variant: object) -> int:
    """How plain a variant is, the plainest first."""
    if not isinstance(variant, dict) or "$ref" in variant or "allOf" in variant:
        return 3
    if variant.get("type") == "null":
        return 0
    return 2 if variant.get("type") in ("object", "array") else 1


def _merge(one: Schema, other: Schema) -> Schema:
    """A schema that asks for what both ask for, as far as that is simple."""
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        mine, theirs = one[key], other[key]
        if key in ("properties", "patternProperties", "$defs"):
            merged[key] = mine | {
                name: _merge(_as_schema(mine.get(name, {})), _as_schema(part))
                for name, part in theirs.items()
            }
        elif key == "required":
            merged[key] = [*mine, *(name for name in theirs if name not in mine)]
        elif key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
            merged[key] = max(mine, theirs)
        elif key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
            merged[key] = min(mine, theirs)
        elif key == "enum":
            merged[key] = [value for value in mine if value in theirs]
        elif key in ("anyOf", "oneOf", "allOf"):
            merged["allOf"] = [{key: mine}, {key: theirs}, *merged.get("allOf", ())]
            if key != "allOf":
                del merged[key]
        elif key == "type" and mine != theirs:
            merged[key] = _common_type(mine, theirs)
    return merged


def _common_type(mine: Any, theirs: Any) -> Any:
    mine, theirs = ([one] if isinstance(one, str) else one for one in (mine, theirs))
    common = [name for name in mine if name in theirs]
    if not common and {"integer", "number"} <= {*mine, *theirs}:
        common = ["integer"]
    if not common:
        raise _unfillable("two parts of it ask for different types")
    return common


def _bounds(schema: Schema, step: float) -> tuple[float, float]:
    """The lowest and the highest value; `step` is what an exclusive bound is away by."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if above is True:  # draft 4
        above = low
    if below is True:
        below = high
    if above is not None and above is not False:
        next_up = math.floor(above) + 1 if step == 1 else above + step
        low = next_up if low is None else max(low, next_up)
    if below is not None and below is not False:
        next_down = math.ceil(below) - 1 if step == 1 else below - step
        high = next_down if high is None else min(high, next_down)
    if low is None:
        low = 0 if high is None or high >= 0 else high - 100
    if high is None:
        high = low + max(100, 10 * step)
    return low, high


_SPARE = string.ascii_lowercase + string.digits + string.ascii_uppercase + " -_.,:/"


def _from_pattern(pattern: object, random: Random) -> str:
    from re import _parser  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        tree = _parser.parse(pattern)
        found = re.compile(str(pattern))
    except (re.error, TypeError, OverflowError):
        raise _unfillable(f"the pattern {pattern!r} is not understood") from None
    for _ in range(20):
        text = "".join(_from_node(str(name), value, random) for name, value in tree)
        if found.search(text):
            return text
    raise _unfillable(f"nothing was found that fits the pattern {pattern!r}")


def _from_node(name: str, value: Any, random: Random) -> str:
    """Make up a text for one node of a parsed regular expression."""
    text = ""  # of anchors and look-arounds: the whole is checked against the pattern
    match name:
        case "LITERAL":
            text = chr(value)
        case "NOT_LITERAL":
            text = "a" if value != ord("a") else "b"
        case "ANY":
            text = random.choice(string.ascii_lowercase)
        case "IN":
            text = random.choice([char for char in _SPARE if _is_in(char, value)] or _first(value))
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = value
            times = random.randint(least, max(least, min(int(most), least + 3)))
            text = "".join(_from_nodes(inner, random) for _ in range(min(times, _SIZE_LIMIT)))
        case "SUBPATTERN":
            text = _from_nodes(value[-1], random)
        case "ATOMIC_GROUP":
            text = _from_nodes(value, random)
        case "BRANCH":
            text = _from_nodes(random.choice(value[1]), random)
    return text


def _from_nodes(nodes: Any, random: Random) -> str:
    return "".join(_from_node(str(name), value, random) for name, value in nodes)


def _is_in(char: str, parts: Any) -> bool:
    negated = str(parts[0][0]) == "NEGATE"
    return any(_fits(char, str(name), value) for name, value in parts) != negated


def _fits(char: str, name: str, value: Any) -> bool:
    match name:
        case "LITERAL":
            return ord(char) == int(value)
        case "RANGE":
            return bool(value[0] <= ord(char) <= value[1])
        case "CATEGORY":
            return bool(_CATEGORIES[str(value)].match(char))
        case _:
            return False


_CATEGORIES = {
    "CATEGORY_DIGIT": re.compile(r"\d"),
    "CATEGORY_NOT_DIGIT": re.compile(r"\D"),
    "CATEGORY_SPACE": re.compile(r"\s"),
    "CATEGORY_NOT_SPACE": re.compile(r"\S"),
    "CATEGORY_WORD": re.compile(r"\w"),
    "CATEGORY_NOT_WORD": re.compile(r"\W"),
}


def _first(parts: Any) -> str:
    """A character of a class that has none of the usual ones."""
    for name, value in parts:
        if str(name) in ("LITERAL", "RANGE"):
            return chr(value if str(name) == "LITERAL" else value[0])
    return "?"

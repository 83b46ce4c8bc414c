"""Reads YAML and JSON from untrusted hands into plain data, and writes YAML: bounded, no tags, no surprises.

YAML is read by the 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema): only true and false are booleans,
dates stay text, 1e-3 is a number. Anchors are allowed, but what they expand to is bounded; merge keys, tags other
than the core's, duplicate keys and several documents are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Never

import yaml

from stratoscope.errors import SpecError

MAX_YAML_BYTES = 1 << 20
MAX_JSON_BYTES = 64 << 20  # records with their layers; the JSON reader has no anchors and takes linear time
MAX_DEPTH = 32
MAX_NODES = 50_000  # after anchors are expanded
MAX_MESSAGE = 200

#: Path of keys and indices to the line (from 1) where it stands.
Lines = dict[tuple[str | int, ...], int]

_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "null", "bool", "int", "float"))
_CORE: tuple[tuple[str, str, str], ...] = (
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """Plain data with the lines where its parts stand; `lines` is empty for JSON."""

    data: Any
    lines: Lines = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema's scalars and a bound on nesting while it composes."""

    composed_depth = 0
    composed_count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.composed_depth += 1
        self.composed_count += 1
        if self.composed_depth > MAX_DEPTH:
            raise _problem(f"nested deeper than {MAX_DEPTH} levels", self._mark())
        if self.composed_count > MAX_NODES:
            raise _problem(f"more than {MAX_NODES} values", self._mark())
        node = super().compose_node(parent, index)
        self.composed_depth -= 1
        return node

    def _mark(self) -> Any:
        parser: Any = self  # peek_event has no types in the stubs
        return parser.peek_event().start_mark


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that also quotes what either YAML 1.1 or 1.2 would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Text, in double quotes where only an escape preserves its characters: YAML folds U+0085 and its like."""
    unprintable = not text.replace("\n", "").isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if unprintable else None)


_Dumper.add_representer(str, _write_text)


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """First character to the tags that a plain scalar may have, in the form that PyYAML keeps them."""
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, firsts in _CORE:
        for first in firsts:
            key = "" if first == "\0" else first
            table.setdefault(key, []).append((f"tag:yaml.org,2002:{name}", re.compile(pattern)))
    return table


_Loader.yaml_implicit_resolvers = _resolvers()
for _name, _pattern, _firsts in _CORE[2:]:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), list(_firsts))


def read_text(text: str, *, as_written: bool = False) -> Text:
    """Plain data from YAML, or from JSON where the text begins as a JSON object does.

    With `as_written` every YAML scalar stays the text that it was: 1.10 is "1.10" and not 1.1.

    Raises:
        SpecError: too large, too deep, expanding beyond the bound, keys that stand twice or are no text, foreign tags,
            bad syntax.
    """
    if re.match(r"\s*\{\s*[\"}]", text):
        return _read_json(text)
    if len(text.encode(errors="surrogatepass")) > MAX_YAML_BYTES:
        raise SpecError(f"the YAML text is larger than {MAX_YAML_BYTES} bytes")
    return _read_yaml(text, as_written)


def write_yaml(data: Mapping[str, Any]) -> str:
    """YAML of plain data: block style, keys in their order, Unicode as it is."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def _problem(what: str, mark: Any = None) -> SpecError:
    short = (
        what if len(what) <= MAX_MESSAGE else what[:MAX_MESSAGE] + "..."
    )  # what is quoted may be as long as the text
    return SpecError(short if mark is None else f"{short} (line {mark.line + 1}, column {mark.column + 1})")


def _read_yaml(text: str, as_written: bool) -> Text:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        what = " ".join(filter(None, (error.context, error.problem)))
        raise _problem(f"the YAML cannot be read: {what}", error.problem_mark or error.context_mark) from error
    except yaml.YAMLError as error:
        raise SpecError(f"the YAML cannot be read: {' '.join(str(error).split())}") from error
    finally:
        if loader is not None:
            loader.dispose()
    if node is None:
        return Text(None)
    _bound_expansion(node)
    lines: Lines = {}
    return Text(_construct(node, (), lines, as_written), lines)


def _bound_expansion(root: yaml.Node) -> None:
    """Raises SpecError where anchors make a cycle or expand to more than MAX_NODES values or MAX_DEPTH levels."""
    sizes: dict[int, tuple[int, int]] = {}  # node -> values and levels below it, itself included
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise _problem("an anchor contains itself", node.start_mark)
        open_nodes.add(id(node))
        values, levels = 1, 0
        for child in _children(node):
            child_values, child_levels = measure(child)
            values, levels = values + child_values, max(levels, child_levels)
            if values > MAX_NODES or levels >= MAX_DEPTH:
                raise _problem(f"anchors expand to more than {MAX_NODES} values or {MAX_DEPTH} levels", node.start_mark)
        open_nodes.discard(id(node))
        sizes[id(node)] = (values, levels + 1)
        return sizes[id(node)]

    measure(root)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _construct(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, as_written: bool) -> Any:
    """Plain data of a node whose expansion is bounded."""
    if node.tag == "tag:yaml.org,2002:merge" or node.tag not in _CORE_TAGS:
        raise _problem(f"the tag {node.tag!r} is not allowed: manifests are plain data", node.start_mark)
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*path, index), lines, as_written) for index, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in mapping:
                raise _problem(f"the key {key!r} stands twice", key_node.start_mark)
            lines[(*path, key)] = key_node.start_mark.line + 1
            mapping[key] = _construct(value_node, (*path, key), lines, as_written)
        return mapping
    return str(node.value) if as_written else _scalar(node)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        raise _problem(f"a key is text; quote {getattr(node, 'value', '')!r}", node.start_mark)
    if node.value == "<<" and node.style is None:
        raise _problem("merge keys (<<) are not supported: write the keys out", node.start_mark)
    return str(_scalar(node))


def _scalar(node: yaml.Node) -> Any:
    kind, text = node.tag.rpartition(":")[2], str(node.value)
    readers: dict[str, Callable[[str], Any]] = {
        "null": lambda _: None,
        "bool": lambda value: value.lower() == "true",
        "int": lambda value: int(value, 0) if value[:2] in ("0o", "0x") else int(value, 10),
        "float": _finite,
    }
    try:
        if kind in readers:
            return readers[kind](text)
        text.encode()  # an escape can write half a surrogate pair, which is no text
        return text
    except UnicodeEncodeError as error:
        raise _problem("a text holds half a surrogate pair", node.start_mark) from error
    except ValueError as error:
        raise _problem(f"{text[:40]!r} is no usable number", node.start_mark) from error


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _read_json(text: str) -> Text:
    if len(text.encode(errors="surrogatepass")) > MAX_JSON_BYTES:
        raise SpecError(f"the JSON text is larger than {MAX_JSON_BYTES} bytes")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(items)
        if len(mapping) < len(items):
            seen: set[Hashable] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise _problem(f"the key {twice!r} stands twice")
        return mapping

    def refuse(constant: str) -> Never:
        raise SpecError(f"{constant} is not JSON: a number without a value is null")

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse, parse_float=_finite)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(data, ensure_ascii=False).encode()
        return Text(data)
    except UnicodeEncodeError as error:
        raise SpecError("the JSON holds half a surrogate pair, which is no text") from error
    except json.JSONDecodeError as error:
        raise SpecError(f"the JSON cannot be read: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise SpecError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise SpecError(f"the JSON holds a number that cannot be used: {str(error)[:60]}") from error

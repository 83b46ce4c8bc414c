"""Manifests, records and reference logs in and out of YAML and JSON: the schema tag chooses the class.

Every document begins with `schema: stratoscope/KIND/N`. `load_document` names the key, the line and the nearest valid
key where something is wrong; `dump_yaml` writes what `load_document` reads back equal.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from stratoscope.errors import SpecError
from stratoscope.spec.base import Document
from stratoscope.spec.dataset import DatasetManifest
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.record import RunRecord
from stratoscope.spec.reference import ReferenceLog
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.spec.software import SoftwareManifest
from stratoscope.spec.yaml_text import MAX_JSON_BYTES, Lines, read_text, write_yaml

D = TypeVar("D", bound=Document)

#: Kind to class; the class's `schema` default is the tag of its current version.
KINDS: Mapping[str, type[Document]] = types.MappingProxyType(
    {
        "model": ModelManifest,
        "dataset": DatasetManifest,
        "software": SoftwareManifest,
        "hardware": HardwareManifest,
        "scenario": ScenarioManifest,
        "reference": ReferenceLog,
        "run": RunRecord,
    }
)


def schema_tag(kind: str) -> str:
    """The tag of a kind: "model" gives "stratoscope/model/1". A tag gives itself.

    Raises:
        SpecError: no such kind; names the nearest.
    """
    return str(_class_of(kind).model_fields["schema_"].default)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind ("model") or tag ("stratoscope/model/1").

    Raises:
        SpecError: no such kind; names the nearest.
    """
    schema = _class_of(kind).model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": schema_tag(kind), **schema}


def load_document(source: str | Path) -> Document:
    """The manifest, reference log or record in a file (`Path`, or a string of one line) or in a text.

    Raises:
        SpecError: the file cannot be read, is too large or malformed, has an unknown schema tag, or does not validate.
            One line that names the file, the key and, for YAML, the line.
    """
    text, where = read_source(source)
    try:
        parsed = read_text(text)
    except SpecError as error:
        raise SpecError(f"{where}: {error.message}", hint=error.hint) from error
    if not isinstance(parsed.data, dict):
        raise SpecError(f"{where} holds no document: it must be a mapping that begins with a schema tag")
    if "schema" not in parsed.data:
        raise SpecError(f"{where} has no schema tag", hint=f"begin it with one of: {_known_tags()}")
    return _validated(_class_by_tag(parsed.data["schema"], where), parsed.data, parsed.lines, where)


def load_as(kind: type[D], source: str | Path) -> D:
    """`load_document`, for a caller who needs one class.

    Raises:
        SpecError: as `load_document`, or the document is of another kind.
    """
    document = load_document(source)
    if not isinstance(document, kind):
        wanted, got = (cls.model_fields["schema_"].default for cls in (kind, type(document)))
        where = "the text" if (path := _as_path(source)) is None else path
        raise SpecError(f"{where}: this is a {got}, and a {wanted} is needed")
    return document


def validate(kind: type[D], data: Any, where: str = "the data") -> D:
    """An instance from plain data, with the one-line errors of `load_document`."""
    return _validated(kind, data, {}, where)


def dump_yaml(document: Document) -> str:
    """YAML that `load_document` reads back to an equal document; absent values are left out."""
    return write_yaml(document.model_dump(mode="json", by_alias=True, exclude_none=True))


def _known_tags() -> str:
    return ", ".join(schema_tag(kind) for kind in KINDS)


def _class_of(kind: str) -> type[Document]:
    name = kind.split("/")[1] if kind.startswith("stratoscope/") and kind.count("/") == 2 else kind
    if name not in KINDS:
        nearest = difflib.get_close_matches(name, KINDS, 1)
        suggestion = f"did you mean {nearest[0]!r}?" if nearest else f"kinds: {', '.join(KINDS)}"
        raise SpecError(f"there is no kind of document {kind!r}", hint=suggestion)
    return KINDS[name]


def _class_by_tag(tag: Any, where: str) -> type[Document]:
    classes = {str(cls.model_fields["schema_"].default): cls for cls in KINDS.values()}
    if isinstance(tag, str) and tag in classes:
        return classes[tag]
    raise SpecError(f"{where}: unknown schema tag {str(tag)[:80]!r}", hint=f"known tags: {_known_tags()}")


def read_source(source: str | Path) -> tuple[str, str]:
    """The text of a file, or the text that was given; and how to call it in a message.

    Raises:
        SpecError: the file cannot be read, is too large, or is not UTF-8.
    """
    path = _as_path(source)
    return (str(source), "the text") if path is None else (_read_file(path), str(path))


def _as_path(source: str | Path) -> Path | None:
    """The path that is meant, or None for a text: several lines, a `key: value`, or a JSON object."""
    if isinstance(source, Path):
        return source
    is_text = "\n" in source or ": " in source or source.lstrip().startswith("{") or not source.strip()
    return None if is_text else Path(source)


def _read_file(path: Path) -> str:
    try:
        if not path.is_file():
            raise SpecError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
        with path.open("rb") as stream:
            content = stream.read(MAX_JSON_BYTES + 1)  # the text's own, smaller bound is checked when it is parsed
        if len(content) > MAX_JSON_BYTES:
            raise SpecError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error


def _validated(cls: type[D], data: Any, lines: Lines, where: str) -> D:
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        first = problems[0]
        location = tuple(first["loc"])
        path = _readable(location)
        line = _line_of(location, lines)
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        stem = where if line is None else f"{where}, line {line}"
        if first["type"] == "extra_forbidden":
            raise SpecError(
                f"{stem}: unknown key {str(location[-1])[:80]!r}{_below(location[:-1])}{more}",
                hint=_nearest(cls, location),
            ) from error
        message = str(first["msg"]).removeprefix("Value error, ")
        raise SpecError(f"{stem}: {path[:200] or 'the document'}: {message[:300]}{more}") from error


def _readable(location: tuple[str | int, ...]) -> str:
    """Pydantic's location as a path: inputs[0].shape."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _below(location: tuple[str | int, ...]) -> str:
    return f" in {_readable(location)}" if location else ""


def _line_of(location: tuple[str | int, ...], lines: Lines) -> int | None:
    """The line of the deepest part of the location that stands in the text.

    Pydantic's locations also name the member of a union that was tried; such parts stand in no text and are skipped.
    """
    known: tuple[str | int, ...] = ()
    for part in location:
        if (*known, part) in lines:
            known = (*known, part)
    return lines.get(known) if known else lines.get(())


def _nearest(cls: type[BaseModel], location: tuple[str | int, ...]) -> str | None:
    """The valid key nearest to an unknown one, or all valid keys where none is near."""
    models: list[type[BaseModel]] = [cls]
    for part in location[:-1]:
        models = [found for model in models for found in _models_at(model, part)] or models
    valid = sorted({info.alias or name for model in models for name, info in model.model_fields.items()})
    close = difflib.get_close_matches(str(location[-1]), valid, 1)
    return f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(valid)}"


def _models_at(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    """Models that may stand under a field; none for an index or a union's tag, which do not name a field."""
    for name, info in model.model_fields.items():
        if part in (name, info.alias):
            return _models_in(info.annotation)
    if isinstance(part, str):
        tagged = model.model_fields.get("op")
        return [model] if tagged is not None and get_args(tagged.annotation) == (part,) else []
    return []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside an annotation: through Annotated, unions, tuples and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Literal:
        return []
    if origin is Annotated:
        return _models_in(get_args(annotation)[0])
    if origin in (Union, types.UnionType, tuple, list, dict):
        return [found for member in get_args(annotation) for found in _models_in(member)]
    return []

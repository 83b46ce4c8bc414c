"""Reads the model manifests of MLModelScope, in its three dialects, and says what could not be taken over.

The dialects are the listing in the MLModelScope paper (arXiv 1911.08031: inputs with `steps`), the manifests of the Go
agents (`registry.proto`: `parameters` and one `output`), and those of c3sr and MLHarness (arXiv 2111.05231: `modality`
and embedded Python). They are read field by field, so that one that mixes them is read too. Embedded code is named and
never run; MD5 checksums are kept as text and not trusted.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from stratoscope.errors import SpecError
from stratoscope.spec.base import SEMVER_PATTERN
from stratoscope.spec.dialect_tensors import read_inputs, read_outputs
from stratoscope.spec.fields import Dropped, Fields
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.steps import inside_folder
from stratoscope.spec.yaml_text import read_text
from stratoscope.spec.yamlio import read_source, validate

__all__ = ["Dropped", "Imported", "read_dialect"]

_CODE = "embedded code is never run; declare the same work as steps"
_MD5 = "an MD5 does not identify a file any more; kept as text in the attributes"
_WHY_DROPPED = {
    **dict.fromkeys(
        [f"{when}{what}process" for when in ("", "before_", "after_") for what in ("pre", "post")] + ["run"], _CODE
    ),
    "container": "the software manifest says what a run executes in",
    "hidden": "it only says what a web page lists",
    "is_archive": "archives are not unpacked; fetch and unpack the graph by hand",
    "weights_path": "a graph with its weights in a file of their own is not ONNX",
    "features_path": "labels are read from a file beside the manifest; its address is kept in the references",
    "job_type": "only inference is measured",
    "system_requirements": "the hardware manifest says what a run needs",
}


class Imported(NamedTuple):
    """The manifest, and each field of the source that has no place in it. What was assumed is in its attributes."""

    manifest: ModelManifest
    dropped: tuple[Dropped, ...]


def read_dialect(source: str | Path) -> Imported:
    """The model manifest in a file or text of one of MLModelScope's dialects.

    Raises:
        SpecError: the file cannot be read, is no such manifest, or holds values that are not usable.
    """
    text, where = read_source(source)
    try:
        data = read_text(text, as_written=True).data
    except SpecError as error:
        raise SpecError(f"{where}: {error.message}", hint=error.hint) from error
    if not isinstance(data, dict) or "name" not in data or not {"model", "inputs", "output", "outputs"} & set(data):
        hint = "documents with a schema tag are read as they are" if "schema" in (data or ()) else None
        raise SpecError(
            f"{where} is no MLModelScope model manifest: it has no name, or neither model nor inputs", hint=hint
        )
    fields = Fields(data)
    values = _read(fields)
    return Imported(validate(ModelManifest, values, where), tuple(fields.finish(_WHY_DROPPED)))


def _read(fields: Fields) -> dict[str, Any]:
    """The values of a ModelManifest; what is taken from `fields` is marked there."""
    attributes = _attributes(fields)
    references = fields.texts("references")
    values: dict[str, Any] = {
        "id": fields.text("name"),
        "version": _version(fields, attributes),
        "description": " ".join((fields.text("description") or "").split()),
        "license": fields.text("license"),
        "author": attributes.pop("manifest_author", None) or fields.text("author"),
        "task": fields.text("task"),
        "framework": _framework(fields),
    }
    if (modality := fields.text("modality")) is not None:
        attributes["modality"] = modality
    values |= _files(fields, attributes, references)
    values["inputs"] = read_inputs(fields, attributes)
    values["outputs"] = read_outputs(fields, attributes, references)
    values["references"] = tuple(dict.fromkeys(references))
    values["attributes"] = attributes
    return values


def _version(fields: Fields, attributes: dict[str, str]) -> str:
    """The version, filled up to three numbers; one that is no version is kept in the attributes."""
    written = fields.text("version") or ""
    filled = written + ".0" * (2 - written.count(".")) if re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", written) else written
    if re.match(SEMVER_PATTERN, filled):
        return filled
    if written:
        attributes["version"] = written
    return "0.0.0"


def _framework(fields: Fields) -> dict[str, Any] | None:
    framework = fields.child("framework")
    if framework is None:
        name = fields.text("framework")
        return None if name is None else {"name": name}
    return {"name": framework.text("name") or "unnamed", "version": framework.text("version")}


def _attributes(fields: Fields) -> dict[str, str]:
    """Descriptive attributes as text; a list of mappings (the paper's training dataset) becomes one line."""
    found: dict[str, str] = {}
    attributes = fields.child("attributes")
    for name in attributes.names() if attributes is not None else ():
        assert attributes is not None
        found[name] = _line(attributes.take(name))
    return found


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(_line(part) for part in value.values())
    if isinstance(value, list):
        return " ".join(_line(part) for part in value)
    return "" if value is None else str(value)


def _files(fields: Fields, attributes: dict[str, str], references: list[str]) -> dict[str, Any]:
    """Where the graph is, as a source or a path beside the manifest; checksums go into the attributes."""
    model = fields.child("model")
    if model is None:
        return {}
    base, graph = model.text("base_url") or "", model.text("graph_path") or ""
    for name in ("checksum", "graph_checksum", "weights_checksum", "features_checksum"):
        if (checksum := model.text(name)) is not None:
            attributes[f"md5.{name}"] = checksum
            model.drop(name, _MD5)
    if str(model.peek("is_archive")).lower() in ("none", "false"):
        model.take("is_archive")
    labels = model.peek("features_path")
    if labels:
        references.append(str(labels))
    if "://" in graph:
        return {"source": graph}
    if base:
        return {"source": f"{base.rstrip('/')}/{graph}"}
    try:
        return {"path": inside_folder(graph)} if graph else {}
    except ValueError as error:
        model.drop("graph_path", str(error))
        return {}

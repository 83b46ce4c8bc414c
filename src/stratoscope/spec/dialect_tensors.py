"""Inputs and outputs of MLModelScope's manifests as tensors with declared steps.

A field that the source leaves open and the steps need is assumed, and the assumption is written into the manifest's
attributes as `assumed.PATH`.
"""

from __future__ import annotations

from typing import Any

from stratoscope.spec.fields import Fields

_ELEMENT_TYPES = {
    **{"float": "float32", "single": "float32", "double": "float64", "half": "float16"},
    **{"int": "int32", "long": "int64", "byte": "uint8", "boolean": "bool"},
}
_LABELS = "labels are read from a file beside the manifest; the address is kept in the references"
_RANKED = frozenset({"classification", "feature", "features", "probability", "probabilities", "scores"})
_LAYERS = (
    *(("probabilities_layer", "probability"), ("boxes_layer", "boxes"), ("classes_layer", "classes")),
    *(("masks_layer", "masks"), ("scores_layer", "scores"), ("output_layer", None), ("layer_name", None)),
)


def read_inputs(fields: Fields, attributes: dict[str, str]) -> list[dict[str, Any]]:
    """Values of the inputs' TensorSpecs."""
    layout = "HWC" if _framework_name(fields).startswith(("tensorflow", "tflite")) else "CHW"
    return [_input(index, entry, layout, attributes) for index, entry in enumerate(fields.children("inputs"))]


def _framework_name(fields: Fields) -> str:
    framework = fields.peek("framework")
    return str(framework.get("name", "") if isinstance(framework, dict) else framework).lower()


def read_outputs(fields: Fields, attributes: dict[str, str], references: list[str]) -> list[dict[str, Any]]:
    """Values of the outputs' TensorSpecs, from `outputs` or the Go agents' single `output`.

    A detection model's output names several layers; each becomes an output.
    """
    found: list[dict[str, Any]] = []
    for entry in [*fields.children("output"), *fields.children("outputs")]:
        found.extend(_output(len(found), entry, attributes, references))
    return found


def _parameters(entry: Fields) -> Fields:
    """Where the details stand: below `parameters`, or, in the paper's listing, at the entry itself."""
    return entry.child("parameters") or entry


def _input(index: int, entry: Fields, usual_layout: str, attributes: dict[str, str]) -> dict[str, Any]:
    parameters = _parameters(entry)
    modality = entry.text("type")
    name = parameters.text("input_layer") or parameters.text("layer_name") or entry.text("layer_name")
    _describe(entry, attributes)
    written = parameters.text("layout")
    layout = usual_layout if written is None else _layout(written)
    sizes = _sizes(parameters)
    element_type = _element_type(parameters, attributes)
    if entry.peek("steps") is not None:
        steps, layout, sizes = _listed_steps(entry, attributes)
    elif modality == "image":
        if written is None:
            attributes[f"assumed.{parameters.where('layout')}"] = f"{layout}, as usual for the framework"
        steps = _image_steps(parameters, layout, sizes, element_type, attributes)
    else:
        steps = []
    return {
        "name": _name(name, f"input_{index}", entry, attributes),
        "element_type": element_type,
        "shape": _shape(sizes, layout if modality == "image" else "CHW"),
        "modality": modality,
        "steps": steps,
    }


def _output(index: int, entry: Fields, attributes: dict[str, str], references: list[str]) -> list[dict[str, Any]]:
    parameters = _parameters(entry)
    modality = entry.text("type")
    _describe(entry, attributes)
    element_type = _element_type(parameters, attributes)
    for key in ("features_url", "labels_url"):
        if (address := parameters.text(key)) is not None:
            references.append(address)
            parameters.drop(key, _LABELS)
    if (checksum := parameters.text("features_checksum")) is not None:
        attributes[f"md5.{parameters.where('features_checksum')}"] = checksum
        parameters.drop("features_checksum", "an MD5 does not identify a file any more; kept as text in the attributes")
    layers = [(parameters.text(key), kind) for key, kind in _LAYERS if parameters.peek(key) is not None]
    steps = _listed_post_steps(entry, references) if entry.peek("steps") is not None else _ranking(parameters, modality)
    return [
        {
            "name": _name(name, f"output_{index + offset}", entry, attributes),
            "element_type": element_type,
            "shape": ("...",),
            "modality": (kind if len(layers) > 1 else None) or modality,
            "steps": steps if len(layers) <= 1 else [],
        }
        for offset, (name, kind) in enumerate(layers or [(None, None)])
    ]


def _describe(entry: Fields, attributes: dict[str, str]) -> None:
    if (description := entry.text("description")) is not None:
        attributes[entry.where("description")] = description


def _name(written: str | None, fallback: str, entry: Fields, attributes: dict[str, str]) -> str:
    """The layer's name; where there is none, or only a position (MLHarness writes 0), one by position."""
    if written is not None and not written.isdigit():
        return written
    attributes[f"assumed.{entry.where('name')}"] = f"{fallback} (the source gives {written or 'none'})"
    return fallback


def _element_type(parameters: Fields, attributes: dict[str, str]) -> str:
    written = parameters.text("element_type")
    if written is None:
        attributes[f"assumed.{parameters.where('element_type')}"] = "float32"
        return "float32"
    return _ELEMENT_TYPES.get(written.lower(), written.lower())


def _layout(written: str) -> str:
    """HWC or CHW, with or without a batch axis in front."""
    return "HWC" if written.upper().endswith("HWC") else "CHW"


def _sizes(parameters: Fields, name: str = "dimensions") -> list[int]:
    """Positive whole sizes; others (an unknown -1) make the whole unknown and are dropped by name."""
    numbers = parameters.numbers(name)
    if any(number < 1 or number != int(number) for number in numbers):
        parameters.drop(name, "a size that is not told makes the shape unknown")
        return []
    return [int(number) for number in numbers]


def _shape(sizes: list[int], layout: str) -> tuple[int | str, ...]:
    """The input's shape from sizes that are always written channels first; without a batch size it is free."""
    if not sizes:
        return ("...",)
    batch, rest = (sizes[0], sizes[1:]) if len(sizes) == 4 else ("batch", sizes)
    if layout == "HWC" and len(rest) == 3:
        rest = [rest[1], rest[2], rest[0]]
    return (batch, *rest)


def _image_steps(
    parameters: Fields, layout: str, sizes: list[int], element_type: str, attributes: dict[str, str]
) -> list[dict[str, Any]]:
    """What the Go agents do to an image: decode, resize, (x - mean) / scale, layout."""
    color_mode = parameters.text("color_mode")
    if color_mode is None:
        color_mode = "gray" if sizes[-3:-2] == [1] else "RGB"
        attributes[f"assumed.{parameters.where('color_mode')}"] = color_mode
    steps: list[dict[str, Any]] = [{"op": "decode", "color_mode": _color(color_mode)}]
    if len(sizes) >= 3:
        keep = (parameters.text("keep_aspect_ratio") or "false").lower() == "true"
        attributes[f"assumed.{parameters.where('resize')}"] = "bilinear" + (", then the centre" if keep else "")
        steps += _resize(sizes, "bilinear", keep)
    if parameters.peek("max_dimension") is not None:
        parameters.drop("max_dimension", "no step fits the longer side of an image")
    mean, scale = parameters.numbers("mean"), parameters.numbers("scale")
    if mean or scale:
        steps.append({"op": "normalize", "mean": mean or [0.0], "std": scale or [1.0]})
    if element_type != ("float32" if mean or scale else "uint8"):
        steps.append({"op": "cast", "to": element_type})
    if layout == "CHW":
        steps.append({"op": "layout", "to": "CHW"})
    return steps


def _resize(sizes: list[int], method: str, keep: bool) -> list[dict[str, Any]]:
    height, width = sizes[-2:]
    size = {"height": height, "width": width}
    resize = {"op": "resize", **size, "method": method, "keep_aspect_ratio": keep}
    return [resize, {"op": "crop", **size}] if keep else [resize]


def _color(written: str) -> str:
    return {"RGB": "RGB", "BGR": "BGR"}.get(written.upper(), "gray" if written.lower().startswith("gr") else written)


def _listed_steps(entry: Fields, attributes: dict[str, str]) -> tuple[list[dict[str, Any]], str, list[int]]:
    """The paper's `steps`: a list of mappings with one key each. Also the layout and sizes that they imply."""
    steps: list[dict[str, Any]] = []
    layout, sizes = "HWC", []
    for step in entry.children("steps"):
        for op in step.names():
            details = step.child(op) or Fields({}, step.where(op))
            if op == "decode":
                layout = _layout(details.text("data_layout") or "HWC")
                color = _color(details.text("color_mode") or "RGB")
                steps.append({"op": "decode", "color_mode": color, "data_layout": layout})
            elif op == "resize":
                sizes = _sizes(details)
                method = details.text("method") or "bilinear"
                keep = (details.text("keep_aspect_ratio") or "false").lower() == "true"
                if method not in ("bilinear", "nearest") or len(sizes) < 2:
                    step.drop(op, f"no step resizes with {method!r} to {sizes or 'unknown sizes'}")
                    continue
                if keep:
                    attributes[f"assumed.{step.where(op)}"] = "the image covers the size, then its centre is cut out"
                steps += _resize(sizes, method, keep)
            elif op == "normalize":
                rescale = details.numbers("rescale") or [1.0]
                mean = details.numbers("mean") or [0.0]
                if 0.0 in rescale:
                    step.drop(op, "a rescale of 0 leaves nothing of the image")
                    continue
                if rescale != [1.0]:
                    attributes[f"assumed.{step.where(op)}"] = "(x - mean) * rescale"
                steps.append({"op": "normalize", "mean": mean, "std": [1 / value for value in rescale]})
            else:
                step.drop(op, "there is no such pre-processing step")
    return steps, layout, sizes


def _listed_post_steps(entry: Fields, references: list[str]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    for step in entry.children("steps"):
        for op in step.names():
            details = step.child(op) or Fields({}, step.where(op))
            if op == "argsort":
                if (address := details.text("labels_url")) is not None:
                    references.append(address)
                    details.drop("labels_url", _LABELS)
                steps.append({"op": "argsort"})
            elif op == "softmax":
                steps.append({"op": "softmax"})
            else:
                step.drop(op, "there is no such post-processing step")
    return steps


def _ranking(parameters: Fields, modality: str | None) -> list[dict[str, Any]]:
    """Ranking for outputs that are scores of classes, after the softmax that the Go agents may be told to take."""
    steps: list[dict[str, Any]] = []
    transform = parameters.text("probabilities_transform")
    if transform is not None and transform.lower() == "softmax":
        steps.append({"op": "softmax"})
    elif transform is not None:
        parameters.drop("probabilities_transform", f"there is no step for {transform!r}")
    return [*steps, {"op": "argsort"}] if modality in _RANKED else steps

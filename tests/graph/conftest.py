"""Models that the graph tests share: the nine light ones of the onnx package, and small ones built node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from stratoscope.graph.ir import Graph, Layer
from stratoscope.graph.onnx_reader import read_graph

LIGHT_FOLDER = Path(onnx.__path__[0]) / "backend" / "test" / "data" / "light"


@pytest.fixture(scope="session")
def light_file() -> Callable[[str], Path]:
    """The file of a light model by its name."""
    return lambda name: LIGHT_FOLDER / f"light_{name}.onnx"


@pytest.fixture(scope="session")
def light_graph(light_file: Callable[[str], Path]) -> Callable[[str], Graph]:
    """The graph of a light model by its name, read once."""
    known: dict[str, Graph] = {}

    def get(name: str) -> Graph:
        if name not in known:
            known[name] = read_graph(light_file(name))
        return known[name]

    return get


def _model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    *,
    initializers: Sequence[TensorProto] = (),
    types: Mapping[str, int] | None = None,
    opset: int = 21,
    ir_version: int = 10,
    domains: Mapping[str, int] | None = None,
) -> ModelProto:
    """A model of these nodes; inputs are float32 unless `types` says otherwise, outputs have no declared shape."""
    types = types or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, types.get(name, 1), list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, types.get(name, 1), None) for name in outputs],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(key, one) for key, one in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _layer_of(
    op: str,
    inputs: Sequence[Sequence[int] | TensorProto | None],
    *,
    outputs: int = 1,
    domain: str = "",
    opset: int = 21,
    types: Sequence[int] | None = None,
    **attributes: Any,
) -> Layer:
    """A layer read from a model of one node; an input is a shape, a stored tensor, or None where it is omitted."""
    names = [f"in{position}" if one is not None else "" for position, one in enumerate(inputs)]
    stored: list[TensorProto] = []
    shapes: dict[str, Sequence[int]] = {}
    kinds: dict[str, int] = {}
    for position, (name, one) in enumerate(zip(names, inputs, strict=True)):
        if isinstance(one, TensorProto):
            one.name = name
            stored.append(one)
        elif one is not None:
            shapes[name] = one
            if types is not None:
                kinds[name] = types[position]
    results = [f"out{position}" for position in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    model = _model_of(
        [node],
        shapes,
        results,
        initializers=stored,
        types=kinds,
        opset=opset,
        domains={domain: 1} if domain else None,
    )
    graph = read_graph(model)
    assert len(graph.layers) == 1, graph
    return graph.layers[0]


@pytest.fixture(scope="session")
def model_of() -> Callable[..., ModelProto]:
    """`model_of(nodes, inputs, outputs, initializers=...)`: a model of these nodes."""
    return _model_of


@pytest.fixture(scope="session")
def layer_of() -> Callable[..., Layer]:
    """`layer_of(op, inputs, **attributes)`: the one layer of a model of one node."""
    return _layer_of

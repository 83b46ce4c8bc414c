"""`stratoscope predict --layers`: a model that was never measured, from the layers of others, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Run = Callable[..., Any]


def write_model(path: Path, widths: tuple[int, ...]) -> None:
    """A product and three activations at each width: four different layers a width."""
    nodes, weights, name, width = [], [], "x", widths[0]
    for number, other in enumerate(widths):
        weights.append(numpy_helper.from_array(np.zeros((width, other), np.float32), f"w{number}"))
        for operator, inputs, output in (
            ("MatMul", [name, f"w{number}"], f"a{number}"),
            ("Relu", [f"a{number}"], f"b{number}"),
            ("Tanh", [f"b{number}"], f"c{number}"),
            ("Softmax", [f"c{number}"], f"d{number}"),
        ):
            nodes.append(helper.make_node(operator, inputs, [output]))
        name, width = f"d{number}", other
    info = [
        helper.make_tensor_value_info(one, TensorProto.FLOAT, [64, size])
        for one, size in (("x", widths[0]), (name, width))
    ]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))


@pytest.fixture
def roofs(tmp_path: Path, machines: ModuleType) -> tuple[str, str]:
    (tmp_path / "machine.json").write_text(machines.make_machine().model_dump_json(by_alias=True))
    return ("--here", "machine.json")


def test_a_model_never_measured_is_predicted_from_the_layers_of_others(
    stratoscope: Run, tmp_path: Path, roofs: tuple[str, str]
) -> None:
    for number, widths in enumerate(((64, 96, 160), (128, 80, 192), (112, 208, 144))):
        write_model(tmp_path / f"known_{number}.onnx", widths)
    write_model(tmp_path / "unseen.onnx", (64, 176, 100))
    files = [f"known_{number}.onnx" for number in range(3)]
    built = stratoscope("compose", "build", *files, "--by", "node", "--graph", "authored", "-o", "layers.bricks")
    assert built.code == 0, built.err
    early = stratoscope("predict", "unseen.onnx", "--layers", "layers.bricks", *roofs)
    assert early.code == 2
    assert "compose run" in early.err
    done = stratoscope("compose", "run", "layers.bricks", STRATOSCOPE_LOCK=str(tmp_path / "lock"))
    assert done.code == 0, done.err
    told = stratoscope("predict", "unseen.onnx", "--layers", "layers.bricks", *roofs, "--json", "-")
    assert told.code == 0, told.err
    document = json.loads(told.out)
    assert document["schema"] == "stratoscope/unmeasured/1"
    (row,) = document["models"]
    assert row["layers"] == 12
    assert (row["measured"], len(row["predicted"])) == (4, 8)  # one width is that of a known model
    assert row["latency"]["ci_low"] < row["latency"]["value"] < row["latency"]["ci_high"]
    assert row["left_out"]["models"] == 3
    shown = stratoscope("predict", "unseen.onnx", "--layers", "layers.bricks", *roofs)
    assert "unseen: " in shown.out
    assert "each of 3 models left out in turn" in shown.out
    assert "plain roofline" in shown.out


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "--machine FILE"),
        (("--machine", "m.json", "--layers", "s.bricks"), "--layers SUITE"),
        (("--layers", "s.bricks", "--measure"), "measures nothing"),
        (("--layers", "missing.bricks", "--here", "machine.json"), "missing.bricks"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    stratoscope: Run, roofs: tuple[str, str], options: tuple[str, ...], what: str
) -> None:
    result = stratoscope("predict", "digits", *options)
    assert result.code == 2
    assert len(result.error_lines) == 1
    assert what in result.err


def test_larger_bricks_are_not_layers(stratoscope: Run, roofs: tuple[str, str]) -> None:
    assert stratoscope("compose", "build", "digits", "-o", "s.bricks", "--graph", "authored").code == 0
    result = stratoscope("predict", "digits", "--layers", "s.bricks", *roofs)
    assert result.code == 2
    assert "compose build zoo --by node" in result.err

"""Bricks: cut and run one after the other they give the model's outputs; keys know topology and shapes, not names."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stratoscope.errors import ModelError
from stratoscope.graph.brick_model import index_ranges, key_of, parse_skeleton, skeleton, with_weights
from stratoscope.graph.bricks import Brick, Wall, bricks_of
from stratoscope.graph.cuts import Liveness, Piece, Rule, cut, segment_edges
from stratoscope.graph.ir import Graph
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.work import total, work_of

RULES: tuple[tuple[Rule, int], ...] = (("tensor", 1), ("tensor", 3), ("layers", 1), ("layers", 4), ("node", 1))


@st.composite
def random_models(draw: st.DrawFn) -> ModelProto:
    """A random DAG of element-wise layers and square products with weights, two inputs and up to two outputs."""
    count = draw(st.integers(1, 14))
    names = ["a", "b"]
    nodes, weights = [], []
    for number in range(count):
        kind = draw(st.sampled_from(["Add", "Mul", "Tanh", "Neg", "MatMul", "Clip"]))
        recent = st.sampled_from(names[-3:] if draw(st.booleans()) else names)
        inputs = [draw(recent)]
        if kind in ("Add", "Mul"):
            inputs.append(draw(recent))
        elif kind == "MatMul":
            values = np.random.default_rng(number).standard_normal((3, 3)).astype(np.float32)
            weights.append(numpy_helper.from_array(values, f"w{number}"))
            inputs.append(f"w{number}")
        elif kind == "Clip":
            weights.append(numpy_helper.from_array(np.float32(-number), f"low{number}"))
            inputs.append(f"low{number}")
        nodes.append(helper.make_node(kind, inputs, [f"t{number}"], name=f"layer{number}"))
        names.append(f"t{number}")
    delivered = draw(st.sets(st.sampled_from(names[2:]), min_size=1, max_size=2))
    return _model(nodes, sorted(delivered), weights)


def _model(nodes: list[onnx.NodeProto], outputs: list[str], weights: list[TensorProto], size: int = 3) -> ModelProto:
    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size])

    graph = helper.make_graph(nodes, "random", [info("a"), info("b")], [info(name) for name in outputs], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _keys(model: ModelProto, rule: Rule = "tensor", granularity: int = 1) -> list[str]:
    wall = bricks_of(read_graph(model), rule, granularity=granularity, least_s=0.0)
    return [use.brick.key for use in wall.uses]


def _run_brick(brick: Brick, model: ModelProto, known: dict[str, np.ndarray]) -> None:
    """Runs one brick with the model's own weights, adding its outputs to `known` under the model's names."""
    built = parse_skeleton(skeleton(brick))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    own = {one.name: one for layer in brick.layers for one in layer.inputs if one and one.role == "weight"}
    for tensor, name in zip(
        [one for one in built.graph.initializer if one.name.startswith("weight_")], own, strict=True
    ):
        tensor.raw_data = numpy_helper.to_array(stored[name]).tobytes()
    feeds = {f"input_{number}": known[tensor.name] for number, tensor in enumerate(brick.inputs)}
    outputs = ReferenceEvaluator(built).run(None, feeds)
    known.update(zip((tensor.name for tensor in brick.outputs), outputs, strict=True))


@pytest.mark.parametrize(("rule", "granularity"), RULES)
@settings(max_examples=40, deadline=None)
@given(model=random_models())
def test_bricks_run_one_after_the_other_give_the_outputs_of_the_model(
    rule: Rule, granularity: int, model: ModelProto
) -> None:
    onnx.checker.check_model(model)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((3, 3)).astype(np.float32) for name in "ab"}
    expected = ReferenceEvaluator(model).run(None, feeds)
    known = dict(feeds)
    for use in bricks_of(read_graph(model), rule, granularity=granularity, least_s=0.0).uses:
        _run_brick(use.brick, model, known)
    for value, info in zip(expected, model.graph.output, strict=True):
        np.testing.assert_array_equal(known[info.name], value)


@settings(max_examples=60, deadline=None)
@given(model=random_models(), rule=st.sampled_from(RULES))
def test_every_layer_that_is_needed_is_in_exactly_one_brick_and_work_adds_up(
    model: ModelProto, rule: tuple[Rule, int]
) -> None:
    graph = read_graph(model)
    wall = bricks_of(graph, rule[0], granularity=rule[1], least_s=0.0)
    covered = [layer.index for use in wall.uses for layer in use.brick.layers]
    assert sorted(covered + [layer.index for layer in wall.dead]) == [layer.index for layer in graph.layers]
    dead = {layer.index for layer in wall.dead}
    works = [work for layer in graph.layers if layer.index not in dead and (work := work_of(layer)) is not None]
    assert total([use.brick.work for use in wall.uses]) == total(works)


@settings(max_examples=60, deadline=None)
@given(model=random_models(), granularity=st.integers(2, 4))
def test_overlapping_sequences_less_what_they_share_count_every_layer_once(model: ModelProto, granularity: int) -> None:
    wall = bricks_of(read_graph(model), "overlap", granularity=granularity, least_s=0.0)
    counts: Counter[int] = Counter()
    for use in wall.uses:
        counts.update({layer.index: use.times for layer in use.brick.layers})
        assert use.times in (1, -1)
    covered = Counter()
    for use in wall.uses:
        for position in range(use.start, use.stop):
            covered[position] += use.times
    assert set(covered.values()) <= {1}
    assert sorted(covered) == list(range(len(Liveness(read_graph(model)).layers)))


@settings(max_examples=60, deadline=None)
@given(model=random_models(), rule=st.sampled_from(RULES))
def test_names_and_values_of_weights_are_not_in_the_key(model: ModelProto, rule: tuple[Rule, int]) -> None:
    other = ModelProto.FromString(model.SerializeToString())
    for node in other.graph.node:
        node.name = f"secret {node.name}"
        node.doc_string = "trained for a customer"
        node.input[:] = [f"x/{name}" for name in node.input]
        node.output[:] = [f"x/{name}" for name in node.output]
    for value in (*other.graph.input, *other.graph.output):
        value.name = f"x/{value.name}"
    for tensor in other.graph.initializer:
        tensor.name = f"x/{tensor.name}"
        if tensor.dims:
            tensor.raw_data = np.full(9, 0.5, np.float32).tobytes()
    assert _keys(other, *rule) == _keys(model, *rule)
    for one, two in zip(
        *(bricks_of(read_graph(m), rule[0], granularity=rule[1]).uses for m in (model, other)), strict=True
    ):
        assert skeleton(one.brick) == skeleton(two.brick)
        assert b"secret" not in skeleton(two.brick)
        assert b"customer" not in skeleton(two.brick)


@settings(max_examples=40, deadline=None)
@given(model=random_models())
def test_another_shape_is_another_key(model: ModelProto) -> None:
    graph = model.graph
    wide = _model(
        list(graph.node),
        [value.name for value in graph.output],
        [
            numpy_helper.from_array(np.zeros((4, 4), np.float32), tensor.name) if tensor.dims else tensor
            for tensor in graph.initializer
        ],
        size=4,
    )
    assert not set(_keys(wide)) & set(_keys(model))


def test_a_key_does_not_depend_on_the_order_of_independent_nodes() -> None:
    left = helper.make_node("Tanh", ["a"], ["l"])
    right = helper.make_node("Neg", ["b"], ["r"])
    join = helper.make_node("Add", ["l", "r"], ["y"])
    one, two = (_model([*pair, join], ["y"], []) for pair in ((left, right), (right, left)))
    assert _keys(one, "layers", 3) == _keys(two, "layers", 3)


def test_sharing_a_tensor_and_a_setting_are_in_the_key() -> None:
    def key(nodes: list[onnx.NodeProto], low: float = 0.0) -> str:
        weights = [numpy_helper.from_array(np.float32(low), "low")]
        return _keys(_model(nodes, ["y"], weights), "layers", 9)[0]

    square = [helper.make_node("Mul", ["a", "a"], ["y"])]
    product = [helper.make_node("Mul", ["a", "b"], ["y"])]
    once = [helper.make_node("Tanh", ["a"], ["t"]), helper.make_node("Add", ["t", "t"], ["y"])]
    twice = [
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Tanh", ["a"], ["u"]),
        helper.make_node("Add", ["t", "u"], ["y"]),
    ]
    clip = [helper.make_node("Clip", ["a", "low"], ["y"])]
    keys = [key(square), key(product), key(once), key(twice), key(clip), key(clip, -1.0)]
    assert len(set(keys)) == len(keys)


def test_weights_that_are_one_tensor_and_two_equal_ones_are_different_bricks() -> None:
    weights = [numpy_helper.from_array(np.ones((3, 3), np.float32), name) for name in "vw"]

    def chain(second: str) -> ModelProto:
        nodes = [helper.make_node("MatMul", ["a", "v"], ["t"]), helper.make_node("MatMul", ["t", second], ["y"])]
        return _model(nodes, ["y"], weights)

    assert _keys(chain("v"), "layers", 2) != _keys(chain("w"), "layers", 2)


def _chain_with_mask(blocks: int) -> ModelProto:
    """Blocks of a residual stream that all read one mask: two tensors cross every boundary."""
    nodes = [helper.make_node("Neg", ["b"], ["mask"])]
    name = "a"
    for number in range(blocks):
        nodes.append(helper.make_node("Mul", [name, "mask"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [f"n{number}"]))
        nodes.append(helper.make_node("Add", [f"n{number}", name], [f"x{number}"]))
        name = f"x{number}"
    return _model(nodes, [name], [])


def test_a_mask_that_the_whole_model_reads_is_carried_and_repeated_blocks_are_one_brick() -> None:
    graph = read_graph(_chain_with_mask(20))
    edges = segment_edges(Liveness(graph))
    assert {1 + 3 * number for number in range(20)} <= set(edges)
    assert 3 not in edges  # inside a block the stream and the masked tensor are alive
    wall = bricks_of(graph, least_s=0.0)
    assert len(wall.unique()) <= 3  # the mask, a block
    assert len(wall.uses) >= 20


def test_merging_follows_an_earlier_piece_where_the_same_layers_return() -> None:
    nodes = []
    name = "a"
    for number in range(30):
        for kind in ("Tanh", "Neg", "Sigmoid"):
            nodes.append(helper.make_node(kind, [name], [f"{kind}{number}"]))
            name = f"{kind}{number}"
    graph = read_graph(_model(nodes, [name], [], size=100))
    one = sum(work.flops for layer in graph.layers[:3] if (work := work_of(layer))) / 100e9
    wall = bricks_of(graph, least_s=max(one, 5 * 80_000 / 20e9))
    assert len(wall.uses) > 10
    assert len(wall.unique()) <= 3


def test_what_no_output_needs_is_named_and_left_out() -> None:
    nodes = [helper.make_node("Tanh", ["a"], ["y"]), helper.make_node("Neg", ["b"], ["unused"])]
    wall = bricks_of(read_graph(_model(nodes, ["y"], [])))
    assert [layer.op for layer in wall.dead] == ["Neg"]
    assert [layer.op for use in wall.uses for layer in use.brick.layers] == ["Tanh"]


@pytest.mark.parametrize(("rule", "size"), RULES)
def test_what_only_a_subgraph_reads_is_not_left_out(rule: Rule, size: int) -> None:
    def branch(operator: str) -> onnx.GraphProto:  # "captured" is no input of the If, only of its branches
        node = helper.make_node(operator, ["captured"], ["chosen"])
        return helper.make_graph([node], "b", [], [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [3, 3])])

    nodes = [
        helper.make_node("Tanh", ["a"], ["captured"]),
        helper.make_node("ReduceMax", ["b"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch("Neg"), else_branch=branch("Exp")),
        helper.make_node("Neg", ["a"], ["unused"]),
    ]
    wall = bricks_of(read_graph(_model(nodes, ["y"], [])), rule, granularity=size, least_s=0.0)
    assert [layer.op for layer in wall.dead] == ["Neg"]  # after the If nothing can be read by it
    assert Counter(layer.op for use in wall.uses for layer in use.brick.layers) == Counter(
        ["Tanh", "ReduceMax", "Cast", "If"]
    )


@settings(max_examples=40, deadline=None)
@given(model=random_models(), rule=st.sampled_from(RULES))
def test_a_skeleton_has_the_key_of_its_brick(model: ModelProto, rule: tuple[Rule, int]) -> None:
    for use in bricks_of(read_graph(model), rule[0], granularity=rule[1], least_s=0.0).uses:
        assert key_of(skeleton(use.brick)) == use.brick.key


def test_one_setting_in_two_places_stays_one() -> None:
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    end = numpy_helper.from_array(np.array([3], np.int64), "end")
    nodes = [helper.make_node("Slice", ["a", "one", "end", "one"], ["t"]), helper.make_node("Transpose", ["t"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "slice",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [one, end],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (brick,) = bricks_of(read_graph(model), "layers", granularity=9).unique().values()
    assert key_of(skeleton(brick)) == brick.key


def test_bricks_of_real_models_run_in_onnxruntime_with_seeded_weights(light_graph: Callable[[str], Graph]) -> None:
    import onnxruntime

    for name in ("squeezenet", "shufflenet"):
        wall = bricks_of(light_graph(name))
        assert all(brick.problem is None for brick in wall.unique().values())
        for brick in list(wall.unique().values())[:4]:
            model = with_weights(skeleton(brick), seed=1)
            onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
            feeds = {one.name: np.ones(one.shape, np.float32) for one in session.get_inputs()}
            outputs = session.run(None, feeds)
            assert [one.shape for one in outputs] == [tensor.shape for tensor in brick.outputs]
            assert all(np.isfinite(one).all() for one in outputs)


def test_seeded_weights_are_the_same_every_time_and_lookups_stay_in_their_table() -> None:
    index = numpy_helper.from_array(np.arange(100, dtype=np.int64) % 3, "index")
    nodes = [helper.make_node("Gather", ["a", "index"], ["y"])]
    wall = bricks_of(read_graph(_model(nodes, ["y"], [index])))
    content = skeleton(wall.uses[0].brick)
    assert with_weights(content, 3) == with_weights(content, 3)
    drawn = numpy_helper.to_array(onnx.load_from_string(with_weights(content, 3)).graph.initializer[0])
    assert drawn.min() >= 0
    assert drawn.max() == 2


def test_the_range_of_an_index_input_is_that_of_its_table() -> None:
    table = numpy_helper.from_array(np.ones((7, 3), np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["i"], ["j"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "j"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, [5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 3])],
        [table],
    )
    assert index_ranges(helper.make_model(graph)) == {"i": 7}


def test_a_brick_that_cannot_be_built_says_why(light_graph: Callable[[str], Graph]) -> None:
    wall = bricks_of(light_graph("squeezenet"))
    broken = replace(wall.uses[0].brick, problem="Loop has subgraphs, which refer to tensors outside of it")
    with pytest.raises(ModelError, match="Loop has subgraphs"):
        skeleton(broken)


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"\xff\xfe not protobuf", "not an ONNX message"), (b"", "holds no network")],
)
def test_a_damaged_skeleton_is_refused(content: bytes, what: str) -> None:
    with pytest.raises(ModelError, match=what):
        parse_skeleton(content)


def test_a_skeleton_cannot_ask_for_files_or_for_all_memory() -> None:
    model = _model([helper.make_node("MatMul", ["a", "weight_0_1"], ["y"])], ["y"], [])
    tensor = model.graph.initializer.add(name="weight_0_1", data_type=1, dims=[1 << 20, 1 << 20])
    with pytest.raises(ModelError, match="GiB"):
        parse_skeleton(model.SerializeToString())
    tensor.dims[:] = [3, 3]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ModelError, match="outside the suite"):
        parse_skeleton(model.SerializeToString())


def test_one_tensor_segments_of_the_zoo_are_those_counted_by_hand(light_graph: Callable[[str], Graph]) -> None:
    """inception_v1 has 9 modules of 14 layers, each between two single tensors; its stem and end are chains."""
    graph = light_graph("inception_v1")
    edges = segment_edges(Liveness(graph))
    lengths = [stop - start for start, stop in pairwise(edges)]
    assert lengths.count(14) == 9
    assert sum(lengths) == len(graph.layers)
    assert [Piece(a, b) for a, b in pairwise(edges)] == list(cut(Liveness(graph), least_s=0.0))


@pytest.mark.parametrize(("rule", "granularity"), [("layers", 0), ("overlap", 1)])
def test_a_granularity_that_makes_no_sense_is_refused(
    rule: Rule, granularity: int, light_graph: Callable[[str], Graph]
) -> None:
    with pytest.raises(ValueError, match="granularity"):
        cut(Liveness(light_graph("squeezenet")), rule, granularity=granularity)


def test_walls_know_their_unique_bricks_in_order_of_first_use(light_graph: Callable[[str], Graph]) -> None:
    wall: Wall = bricks_of(light_graph("resnet50"), "layers", granularity=1)
    unique = wall.unique()
    assert list(unique) == list(dict.fromkeys(use.brick.key for use in wall.uses))
    assert len(unique) < len(wall.uses) / 2


def test_memory_of_cutting_is_linear_in_the_layers() -> None:
    def peak(blocks: int) -> int:
        graph = read_graph(_chain_with_mask(blocks))
        tracemalloc.start()
        bricks_of(graph, least_s=0.0)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(50)  # caches of the modules are filled once
    assert peak(400) < 2.5 * peak(200)

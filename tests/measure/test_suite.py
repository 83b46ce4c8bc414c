"""Suites: built from models, kept in one file, measured brick by brick; damaged and foreign files are refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stratoscope.errors import MeasurementError, ModelError, StoreError
from stratoscope.explain.compose.assembly import POINT, STATES, estimates, saving, times_of
from stratoscope.explain.compose.synthesis import synthesize
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.measure.sequence import compare_with_whole, measure_groups, protocol_of
from stratoscope.measure.suite import Suite, build_suite, candidate_of, read_suite, write_suite
from stratoscope.models.resolve import resolve
from stratoscope.spec.performance import Candidate, Environment, Part, PartMeasurement, Protocol
from stratoscope.store.performance import PerformanceDatabase

ENVIRONMENT = Environment(cpu="test")


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """Three equal blocks of a product and an activation, and a softmax."""
    nodes, weights, name = [], [], "secret_input"
    for number in range(3):
        values = np.random.default_rng(number).standard_normal((64, 64)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"secret_weight_{number}"))
        nodes.append(helper.make_node("MatMul", [name, f"secret_weight_{number}"], [f"secret_{number}"]))
        nodes.append(helper.make_node("Tanh", [f"secret_{number}"], [f"secret_out_{number}"]))
        name = f"secret_out_{number}"
    nodes.append(helper.make_node("Softmax", [name], ["y"]))
    info = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [32, 64]) for one in ("secret_input", "y")]
    graph = helper.make_graph(nodes, "secret_graph", info[:1], info[1:], weights)
    path = tmp_path / "secret_model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


def built(model_file: Path, **options: object) -> Suite:
    return build_suite([resolve(str(model_file))], graph="authored", least_s=0.0, **options)  # type: ignore[arg-type]


def test_repeated_blocks_are_one_brick_and_a_suite_comes_back_as_it_was_written(model_file: Path) -> None:
    suite = built(model_file)
    assert [len(model.places) for model in suite.index.models] == [7]
    assert len(suite.index.bricks) == 3
    file = model_file.parent / "suite.bricks"
    write_suite(suite, file)
    assert read_suite(file) == suite


def test_an_anonymous_suite_holds_no_name_and_no_weight_of_the_model(model_file: Path) -> None:
    file = model_file.parent / "suite.bricks"
    suite = built(model_file, anonymous=True)
    write_suite(suite, file)
    with zipfile.ZipFile(file) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"secret" not in content
    for tensor in onnx.load(str(model_file)).graph.initializer:
        assert tensor.raw_data[:64] not in content
    assert [model.name for model in suite.index.models] == ["model-1"]


def test_each_brick_is_wanted_in_one_group_and_runs_behind_its_predecessor(model_file: Path) -> None:
    suite = build_suite([resolve(str(model_file))] * 2, graph="authored", least_s=0.0)
    assert [[brick.wanted for brick in group] for group in suite.groups()] == [[True] * 3, []]
    last = suite.index.models[0].places[-1].key
    (group, _) = suite.groups(lambda key: key == last)
    assert [brick.wanted for brick in group] == [False, True]


def test_bricks_are_measured_kept_and_put_together(model_file: Path) -> None:
    suite = built(model_file)
    protocols = [protocol_of(state) for state in STATES]
    with PerformanceDatabase(model_file.parent / "results.db") as database:
        done = measure_groups(
            suite.groups(),
            suite.index.candidate,
            protocols,
            environment=ENVIRONMENT,
            on_result=lambda one: _keep(database, one),
        )
        assert (done.measured, done.failed, done.left) == (9, 0, 0)
        parts = [brick.part for brick in suite.index.bricks.values()]
        assert database.missing(parts, [suite.index.candidate], ENVIRONMENT, protocols) == []
        times = times_of(suite, database, ENVIRONMENT)
    (row,) = estimates(suite, times)
    assert row.estimate.coverage == 1.0
    used = [times[POINT][place.key] for place in suite.index.models[0].places]
    call = min(one.overhead_s for one in used)
    least, most = (sum(end(one.samples_s) - one.overhead_s for one in used) + call for end in (min, max))
    assert least <= row.estimate.latency.require() <= most
    assert row.estimate.low.require() <= row.estimate.latency.require() <= row.estimate.high.require()
    assert saving(suite, [row], times).saved.require() > 1


def _keep(database: PerformanceDatabase, one: PartMeasurement) -> None:
    assert database.record(one)
    assert not database.record(one)  # duplicates cannot enter


def test_the_budget_leaves_groups_and_says_so(model_file: Path) -> None:
    suite = built(model_file)
    found: list[PartMeasurement] = []
    done = measure_groups(
        suite.groups(),
        suite.index.candidate,
        [Protocol(cache="sequence")],
        environment=ENVIRONMENT,
        on_result=found.append,
        budget_s=0.0,
    )
    assert (done.left, found) == (3, [])


def test_a_brick_that_does_not_run_is_recorded_and_the_others_go_on(model_file: Path) -> None:
    suite = built(model_file)
    good = suite.groups()[0][:1]
    part = Part(digest="sha256:" + "0" * 64, kind="brick", slug="bad", operators=("NoSuchOperator",))
    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["input_0"], ["output_0"])],
        "bad",
        [helper.make_tensor_value_info("input_0", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("output_0", TensorProto.FLOAT, [2])],
    )
    bad = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    unbuilt = part.model_copy(update={"digest": "sha256:" + "1" * 64})
    group = [RunnableBrick(part, bad), RunnableBrick(unbuilt, b"", problem="a Loop has subgraphs"), *good]
    found: list[PartMeasurement] = []
    measure_groups(
        [group],
        candidate_of("authored"),
        [Protocol(cache="hot")],
        environment=ENVIRONMENT,
        on_result=found.append,
    )
    assert [one.status for one in found] == ["failed", "unsupported", "ok"]
    assert "NoSuchOperator" in (found[0].reason or "")
    assert found[1].reason == "a Loop has subgraphs"


def test_a_model_and_its_bricks_are_timed_in_turns(model_file: Path) -> None:
    suite = built(model_file)
    whole, results = compare_with_whole(
        suite.groups()[0],
        suite.index.candidate,
        [Protocol(cache="sequence")],
        environment=ENVIRONMENT,
        model=model_file,
        feeds={"secret_input": np.ones((32, 64), np.float32)},
    )
    assert whole.require() > 0
    assert {one.status for one in results} == {"ok"}


@pytest.mark.torch
@pytest.mark.slow
def test_pytorch_runs_bricks_of_the_authored_graph_beside_the_whole(model_file: Path) -> None:
    suite = built(model_file, library="pytorch")
    whole, results = compare_with_whole(
        suite.groups()[0],
        suite.index.candidate,
        [Protocol(cache="sequence")],
        environment=ENVIRONMENT,
        model=model_file,
        feeds={"secret_input": np.ones((32, 64), np.float32)},
    )
    assert whole.require() > 0
    assert {one.status for one in results} == {"ok"}
    with pytest.raises(ModelError, match="PyTorch cannot run"):
        candidate_of("executed", "pytorch")


def test_other_libraries_and_caches_are_refused() -> None:
    other = Candidate(library="openvino", implementation="compiled", version="2")
    with pytest.raises(MeasurementError, match="onnxruntime and pytorch only"):
        measure_groups([], other, [], environment=ENVIRONMENT, on_result=lambda one: None)
    with pytest.raises(MeasurementError, match="flushed"):
        measure_groups(
            [], candidate_of("authored"), [Protocol(cache="flushed")], environment=ENVIRONMENT, on_result=print
        )


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "no suite"), (b"PK\x03\x04 cut off", "no suite"), (b"not a zip file at all", "no suite")],
)
def test_what_is_no_suite_is_refused(tmp_path: Path, content: bytes, what: str) -> None:
    file = tmp_path / "suite.bricks"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=what):
        read_suite(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no suite"):
        read_suite(tmp_path / "nothing.bricks")


def _changed(model_file: Path, change: dict[str, object] | None, *, drop: bool = False) -> Path:
    file = model_file.parent / "changed.bricks"
    suite = built(model_file)
    index = json.loads(suite.index.model_dump_json(by_alias=True)) | (change or {})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("suite.json", json.dumps(index))
        archive.writestr("../../outside", b"never read")
        for key, content in suite.skeletons.items():
            if not drop:
                archive.writestr(f"bricks/{key.removeprefix('sha256:')}.skeleton", content)
    return file


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema": "stratoscope/suite/2"}, "stratoscope/suite/2"),
        ({"bricks": {"../../etc/passwd": {}}}, "does not validate"),
        ({"bricks": {}}, "a brick that is not in it"),
        ({"models": 3}, "does not validate"),
        ({"surprise": True}, "does not validate"),
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(
    model_file: Path, change: dict[str, object], what: str
) -> None:
    with pytest.raises(StoreError, match=what):
        read_suite(_changed(model_file, change))


def test_entries_that_the_index_does_not_name_are_never_read(model_file: Path) -> None:
    suite = read_suite(_changed(model_file, None))
    assert set(suite.skeletons) == set(suite.index.bricks)


def test_a_suite_without_one_of_its_bricks_is_refused(model_file: Path) -> None:
    with pytest.raises(StoreError, match="has no bricks/"):
        read_suite(_changed(model_file, None, drop=True))


def test_a_brick_under_the_key_of_another_is_refused(model_file: Path) -> None:
    suite = built(model_file)
    one, two = list(suite.skeletons)[:2]
    file = model_file.parent / "swapped.bricks"
    write_suite(Suite(suite.index, {**suite.skeletons, one: suite.skeletons[two]}), file)
    with pytest.raises(StoreError, match="is another one"):
        read_suite(file)


def test_a_flipped_bit_is_found(model_file: Path) -> None:
    file = model_file.parent / "suite.bricks"
    write_suite(built(model_file), file)
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo(archive.namelist()[1])
    content[entry.header_offset + 30 + len(entry.filename) + 5] ^= 0x55
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        read_suite(file)


def test_a_synthetic_set_of_all_bricks_has_the_mix_of_the_models(model_file: Path) -> None:
    suite = built(model_file)
    assert synthesize(suite, 3).distance == pytest.approx(0.0, abs=1e-6)
    one, two = synthesize(suite, 1), synthesize(suite, 2)
    assert len(one.bricks) == 1
    assert one.distance >= two.distance >= 0


def test_a_pass_also_reads_the_weights_of_the_places_that_do_not_run(model_file: Path) -> None:
    suite = built(model_file)
    (model,) = suite.index.models
    weights = {key: brick.part.parameter_bytes or 0 for key, brick in suite.index.bricks.items()}
    every = sum(weights[place.key] for place in model.places)
    (group,) = suite.groups()
    assert group[0].further_bytes == every - sum(weights.values())
    assert every > sum(weights.values()) > 0  # a repeated block has weights of its own at each place
    last = group[-1].part.digest
    (few,) = suite.groups(lambda key: key == last)
    assert sum(one.further_bytes for one in few) == every - sum(weights[one.part.digest] for one in few)


def test_a_brick_without_a_network_is_listed_with_its_reason_and_the_share_that_it_stands_for(tmp_path: Path) -> None:
    def branch(value: float) -> onnx.GraphProto:
        constant = numpy_helper.from_array(np.full((32, 64), value, np.float32), "constant")
        node = helper.make_node("Constant", [], ["chosen"], value=constant)
        return helper.make_graph(
            [node], "b", [], [helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [32, 64])]
        )

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("If", ["c"], ["b"], then_branch=branch(1.0), else_branch=branch(2.0)),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, 64]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    chosen, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [32, 64]) for name in ("b", "y"))
    graph = helper.make_graph(nodes, "branching", inputs, [output], [weight], value_info=[chosen])
    path = tmp_path / "branching.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    suite = build_suite([resolve(str(path))], graph="authored", rule="node")
    file = tmp_path / "s.bricks"
    write_suite(suite, file)
    suite = read_suite(file)  # the reason travels with the suite
    unbuilt = [key for key, brick in suite.index.bricks.items() if brick.problem is not None]
    assert [suite.index.bricks[key].part.operators for key in unbuilt] == [("If",)]
    found: list[PartMeasurement] = []
    protocols = [protocol_of(POINT)]
    measure_groups(suite.groups(), suite.index.candidate, protocols, environment=ENVIRONMENT, on_result=found.append)
    with PerformanceDatabase(tmp_path / "results.db") as database:
        assert all(database.record(one) for one in found)
        measured = times_of(suite, database, ENVIRONMENT)
        nothing = times_of(suite, database, Environment(cpu="another"))
    for times in (measured, nothing):  # known before anything is measured, too
        (missing,) = [one for one in estimates(suite, times)[0].estimate.missing if one.key == unbuilt[0]]
        assert missing.status == "unsupported"
        assert "subgraphs" in missing.reason
        assert 0 < missing.share < 1
    (row,) = estimates(suite, measured)
    assert row.estimate.coverage == pytest.approx(1 - missing.share)
    timed = [one.seconds().require() for one in found if one.status == "ok"]
    assert len(timed) == 2
    assert row.estimate.latency.require() > sum(timed)  # made up for, not dropped

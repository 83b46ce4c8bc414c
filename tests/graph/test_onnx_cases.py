"""ONNX's own test cases of operators: inferred shapes against the arrays that they give, and work that adds up."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from stratoscope.graph.onnx_reader import read_graph
from stratoscope.graph.signature import signature, slug
from stratoscope.graph.work import work_of


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    """Every third of the roughly 1,900 cases, with the declared shapes of the outputs taken away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
        from onnx.backend.test.case.node import collect_testcases

        found = list(collect_testcases(None))[::3]
    for case in found:
        for output in case.model.graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.ClearField("shape")
    return found


@pytest.mark.slow
def test_no_inferred_size_differs_from_the_real_one(cases: list[Any]) -> None:
    known = compared = 0
    for case in cases:
        graph = read_graph(case.model)
        for _, outputs in case.data_sets:
            for tensor, array in zip(graph.outputs, outputs, strict=True):
                if not isinstance(array, np.ndarray) or tensor.shape is None:
                    continue
                compared += 1
                assert len(tensor.shape) == array.ndim, case.name
                pairs = [
                    (one, size) for one, size in zip(tensor.shape, array.shape, strict=True) if isinstance(one, int)
                ]
                assert all(one == size for one, size in pairs), case.name
                known += len(pairs) == array.ndim
    assert compared > 500
    assert known > 0.8 * compared  # the rest depends on values that are inputs of the case


@pytest.mark.slow
def test_work_of_every_case_is_consistent(cases: list[Any]) -> None:
    counted = 0
    for case in cases:
        for layer in read_graph(case.model).layers:
            assert signature(layer).startswith("sha256:")
            assert slug(layer)
            work = work_of(layer)
            if work is None:
                continue
            counted += 1
            figures = (work.flops_valid, work.macs, work.bytes_read, work.bytes_written, work.parameter_bytes)
            assert min(figures) >= 0, case.name
            assert 2 * work.macs <= work.flops, case.name
            assert work.flops_valid <= work.flops, case.name
            whole = sum(
                {one.name: one.bytes or 0 for one in layer.inputs if one and one.role != "shape-constant"}.values()
            )
            assert work.bytes_read + work.parameter_bytes <= whole, case.name
    assert counted > 1000

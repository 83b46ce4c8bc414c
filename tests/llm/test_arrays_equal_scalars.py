"""A search prices plans as arrays: each entry is the price of that plan alone, experts and context split included."""

from __future__ import annotations

import numpy as np
import pytest

from stratoscope.llm.efficiency import Efficiency
from stratoscope.llm.estimate import split_of
from stratoscope.llm.hf import load_model
from stratoscope.llm.memory import peak, training_memory, training_timeline
from stratoscope.llm.plan import ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.search import TrainingSpace, price_training, training_grid
from stratoscope.llm.train import step_time


@pytest.mark.parametrize(("zero", "sequence_parallel", "recompute"), [(0, True, "selective"), (1, False, "full")])
def test_plans_of_experts_and_context_cost_the_same_together_and_alone(
    h100: Efficiency, zero: int, sequence_parallel: bool, recompute: str
) -> None:
    model, engine, numbers = load_model("mixtral-8x7b"), find_engine("megatron-core"), Precision()
    space = TrainingSpace(devices=(32, 64), global_batch=64, seq=32768, max_micro_batch=2, interleaves=(1, 2))
    grid = training_grid(model, space, h100.hardware.scale_up.size)
    times, bytes_ = price_training(
        model, grid, space, numbers, engine, h100, zero=zero, sequence_parallel=sequence_parallel, recompute=recompute
    )
    both = np.flatnonzero((grid["cp"] > 1) & (grid["ep"] > 1))
    assert len(both) > 100
    for index in both[:: len(both) // 40]:
        sizes = {name: int(grid[name][index]) for name in ("tp", "cp", "pp", "vpp", "ep", "dp")}
        options = {"zero": zero, "sequence_parallel": sequence_parallel, "recompute": recompute}
        plan = ParallelPlan.model_validate(sizes | options)
        work = TrainStep(global_batch=64, micro_batch=int(grid["micro_batch"][index]), seq=32768)
        alone = step_time(model, split_of(plan, work), numbers, engine, h100).whole.time
        held = training_timeline(model, training_memory(plan, work.micro_batch, 64, 32768), numbers, engine)
        assert float(np.max(alone)) == pytest.approx(float(times[index]), rel=1e-12), plan
        assert float(np.max(peak(held))) == pytest.approx(float(bytes_[index]), rel=1e-12), plan

"""What our operator profile costs beside bare torch.profiler, and the latency put together from profiled runs.

    python benchmarks/profile_overhead.py [MODEL ...] [--threads N] [--pairs N] [--budget SECONDS]

Two ratios a model, each the median of interleaved pairs in random order with a bootstrap interval:

- in the run: an inference under our profile (modules and operators) over one under `torch.profiler.profile` with CPU
  activity, timed inside of the profiler;
- whole: the same with switching the profiler on and off and reading its events.

Then whether the latency that is put together from profiled runs agrees with the unprofiled one within its interval:
zero lies in the interval of their difference. What two unprofiled sessions differ by is printed beside.
Exits with 1 where a ratio is above 1.05, or the two do not agree.

MODEL is a name of the zoo or "resnet18", which is built here.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.pytorch.backend import PyTorchBackend
from stratoscope.backends.pytorch.operator_trace import OperatorTraceSession
from stratoscope.measure.inputs import make_inputs
from stratoscope.measure.leveled_deep import profile_levels
from stratoscope.measure.leveled_plan import plan_levels
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec
from stratoscope.stats.bootstrap import ratio_interval
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.levels import Level

LIMIT = 1.05
Timed = Callable[[], tuple[float, float]]


def bare(session: OperatorTraceSession, tensors: tuple[torch.Tensor, ...]) -> Timed:
    """An inference under torch.profiler alone: (seconds inside of the profiler, seconds in all)."""

    def run() -> tuple[float, float]:
        begin = time.perf_counter()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            session._forward(tensors)
            inside = time.perf_counter() - start
        profiler.events()
        return inside, time.perf_counter() - begin

    return run


def ours(session: OperatorTraceSession, tensors: tuple[torch.Tensor, ...]) -> Timed:
    """An inference under our profile with the spans read."""

    def run() -> tuple[float, float]:
        begin = time.perf_counter()
        _, results, start, end = session._profiled(tensors, shapes=False)
        session._frame([(results, start, end, 0)])
        return (end - start) * 1e-9, time.perf_counter() - begin

    return run


def find(name: str) -> LoadableModel:
    """A model of the zoo, or ResNet-18 with weights drawn at random."""
    if name != "resnet18":
        return resolve(name)
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000)
    inputs = (TensorSpec(name="pixel_values", element_type="float32", shape=(1, 3, 224, 224)),)
    return LoadableModel(ModelManifest(id=name, inputs=inputs), module=ResNetForImageClassification(config))


def compare(model: LoadableModel, options: BackendOptions, pairs: int) -> bool:
    """Prints both ratios of one model; returns whether they keep to the limit."""
    name = model.name
    feeds = make_inputs(model, 1, 0)[0]
    plain, traced = OperatorTraceSession(model, options), OperatorTraceSession(model, options)
    traced.bind(feeds)  # its modules carry our marks, those of `plain` do not
    tensors = plain.prepared.tensors(feeds)
    runs = {"bare": bare(plain, tensors), "ours": ours(traced, tensors)}
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in runs}
    order = random.Random(0)
    for pair in range(pairs + 2):
        for key in order.sample(sorted(runs), 2):
            found = runs[key]()
            if pair >= 2:
                times[key].append(found)
    kept = True
    for place, what in enumerate(("in the run", "whole")):
        base = np.array([one[place] for one in times["bare"]])
        other = np.array([one[place] for one in times["ours"]])
        ratio = float(np.median(other) / np.median(base))
        low, high = ratio_interval(base, other)
        kept &= ratio <= LIMIT
        print(
            f"{name:<12} {what:<10} bare {np.median(base) * 1e3:8.2f} ms  ours {np.median(other) * 1e3:8.2f} ms  "
            f"ratio {ratio:.3f} ({low:.3f} to {high:.3f})  {'ok' if ratio <= LIMIT else f'above {LIMIT}'}"
        )
    return kept


def reconstruct(model: LoadableModel, options: BackendOptions, budget_s: float) -> bool:
    """Prints the latency put together at each level beside the unprofiled one; returns whether they agree."""
    backend, name = PyTorchBackend(), model.name
    feeds = make_inputs(model, 1, 0)[0]
    plan = plan_levels(backend, options, Level.OPERATOR)
    section = profile_levels(backend, model, options, feeds, plan, budget_s=budget_s).section
    true = section.model_time
    agree = True
    for one in section.reconstructions:
        agree &= bool(one.agrees)
        off = one.difference
        assert off is not None
        print(
            f"{name:<12} {one.level:<10} put together {milliseconds(one.time)}  unprofiled {milliseconds(true)}  "
            f"off by {milliseconds(off)}, {off.require() / true.require():+.2%}  "
            f"a span {one.span_cost.require() * 1e6:.2f} us  {'agrees' if one.agrees else 'differs'}"
        )
    if section.control is not None:
        print(f"{name:<12} control    unprofiled against unprofiled {milliseconds(section.control)}")
    print(f"{name:<12} noise      {section.noise.reason}")
    return agree


def milliseconds(time: Quantity) -> str:
    """A time with its interval."""
    low, high = (time.ci_low or 0) * 1e3, (time.ci_high or 0) * 1e3
    return f"{time.require() * 1e3:.2f} ms ({low:.2f} to {high:.2f})"


def main() -> None:
    """Runs both for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet18", "resnet50", "bert-base"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--budget", type=float, default=40.0)
    given = parser.parse_args()
    options = BackendOptions(threads=given.threads)
    good = True
    for name in given.models:
        model = find(name)
        good &= compare(model, options, given.pairs)
        good &= reconstruct(model, options, given.budget)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

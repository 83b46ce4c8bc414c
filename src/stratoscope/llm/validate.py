"""Predicts the published rows blind and says how far off: count, coverage, failures, MAPE, bias, worst rows, interval.

No constant of the model is fitted to these rows. Two things are estimated from rows at all, and never from rows of the
suite that is judged: how far intervals are stretched (from the other suites of the same kind), and an
engine's memory reserve (from the rows of other models; printed beside the blind figure).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stratoscope.errors import StratoscopeError
from stratoscope.llm.base import UnsupportedError
from stratoscope.llm.efficiency import Efficiency, Level, efficiency
from stratoscope.llm.estimate import check_training, split_of
from stratoscope.llm.hardware import find_hardware
from stratoscope.llm.infer import Deployment, generate
from stratoscope.llm.memory import peak, serving_parts, training_memory, training_timeline
from stratoscope.llm.plan import Engine, Generation, ParallelPlan, Precision, TrainStep, find_engine
from stratoscope.llm.report import Total, widen
from stratoscope.llm.rows import Row, shipped_rows
from stratoscope.llm.serve import saturated
from stratoscope.llm.train import step_time

KINDS = {
    "C1": "train", "C3": "train", "M1": "train", "C13": "infer", "C13-large": "infer", "C14": "infer",
    "C14-late": "infer", "C14-ttft": "infer", "T1": "infer",
}  # fmt: skip
TITLES = {
    "M1": "llm-foundry MPT on A100 and H100, fully sharded, iteration time",
    "C13-large": "FasterTransformer GPT-89B to 530B, up to 32 devices, total latency",
    "C14-late": "TensorRT-LLM 0.5 to 0.8 on H100, H200, L40S and A100, static batch, output tokens/s",
    "C14-ttft": "TensorRT-LLM 0.5 to 0.8, time to first token of one request",
    "T1": "TensorRT-LLM 1.0 on H100, H200 and B200, dense models, most output tokens/s",
    "C1": "Megatron-LM weak scaling, iteration time (arXiv 2104.04473)",
    "C3": "Korthikanti tab. 5, iteration time (arXiv 2205.05198)",
    "C3-fig1": "Korthikanti fig. 1, memory by the authors' formula",
    "C13": "FasterTransformer GPT, total latency",
    "C13-mem": "FasterTransformer GPT, measured memory",
    "C13-oom": "FasterTransformer GPT, configurations that ran out of memory",
    "C14": "TensorRT-LLM 0.6, static batch, output tokens/s",
}
# GPT-1.3B, 512 tokens in and 32 out: 3.9 GB in C++ (TITAN RTX, 2022-11), of which its buffers and weights are 2.83 GiB.
PUBLISHED_RESERVE = (3.9 - 2.83) * 2**30
INTERVAL_TARGET = 0.9
MICRO_BATCHES = (1, 2, 4, 8, 16)
INTERLEAVES = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Prediction:
    """One row with what the model says: seconds (times) or bytes (memory), in the row's own unit where it has one."""

    row: Row
    value: float
    low: float
    high: float
    failure: str = ""

    @property
    def ratio(self) -> float:
        """Predicted over measured, minus one; of a yes-or-no row the difference."""
        return self.value / self.row.value - 1.0 if self.row.value else self.value

    @property
    def inside(self) -> bool:
        """Whether the measured value lies in the interval."""
        return self.low <= self.row.value <= self.high


@dataclass(frozen=True)
class Suite:
    """The verdict on one suite."""

    name: str
    title: str
    rows: int
    predictions: tuple[Prediction, ...]
    failures: tuple[tuple[str, str], ...]
    error: float
    note: str = ""

    @property
    def errors(self) -> np.ndarray:
        """Relative errors of the predicted rows."""
        return np.array([prediction.ratio for prediction in self.predictions])

    @property
    def mape(self) -> float:
        """Mean absolute relative error."""
        return float(np.abs(self.errors).mean())

    @property
    def bias(self) -> float:
        """Mean relative error."""
        return float(self.errors.mean())

    @property
    def coverage(self) -> float:
        """Share of all rows that got a prediction."""
        return len(self.predictions) / self.rows

    @property
    def interval_coverage(self) -> float:
        """Share of predicted rows inside their interval."""
        return float(np.mean([prediction.inside for prediction in self.predictions]))

    def worst(self, count: int = 3) -> list[Prediction]:
        """The rows with the largest absolute error."""
        return sorted(self.predictions, key=lambda prediction: -abs(prediction.ratio))[:count]


def engine_of(row: Row) -> Engine:
    """The engine that a row names."""
    name = str(row.engine["name"])
    if name == "tensorrt-llm" and str(row.engine.get("version", "")).startswith("0."):
        name = "tensorrt-llm-0.6"
    return find_engine(name)


def predict(row: Row, level: Level = "prior", error: float = 1.0) -> Prediction:
    """The model's answer to one row; raises StratoscopeError where it has none."""
    device = efficiency(find_hardware(str(row.hardware["gpu"])), level)
    if row.metric == "iteration_s":
        return _training_row(row, device, error)
    if row.metric in ("latency_s", "output_tokens_per_s_per_gpu"):
        return _inference_row(row, device, error)
    if row.metric == "max_output_tokens_per_s":
        return _saturated_row(row, device, error)
    if row.kind == "memory":
        return _memory_row(row, device, engine_of(row))
    raise UnsupportedError(f"row {row.id}: no prediction for metric {row.metric!r}")


def _plans(row: Row) -> Iterable[tuple[ParallelPlan, TrainStep]]:
    """The plan of a row; what its table leaves out (microbatch, interleaving) in every value that divides."""
    given, work = row.parallel, row.workload
    batch, layers = int(work["batch"]), row.model.layers
    pp, dp = int(given["pp"]), int(given["dp"])
    sizes = (int(work["micro_batch"]),) if "micro_batch" in work else MICRO_BATCHES
    chunks = (int(given["vpp"]),) if "vpp" in given else INTERLEAVES if pp > 1 else (1,)
    for micro in sizes:
        for vpp in chunks:
            if batch % (dp * micro) or layers % (pp * vpp) or (vpp > 1 and batch // (dp * micro) % pp):
                continue
            plan = ParallelPlan(
                tp=int(given["tp"]), pp=pp, dp=dp, vpp=vpp, zero=given.get("zero", 0),
                sequence_parallel=bool(given["sp"]), recompute=given["recompute"],
            )  # fmt: skip
            yield plan, TrainStep(global_batch=batch, micro_batch=micro, seq=int(work["seq"]))


def _training_row(row: Row, device: Efficiency, error: float) -> Prediction:
    """The step time; where the table leaves the schedule open, that of the fastest schedule that fits in memory."""
    engine, model = engine_of(row), row.model.spec(max(2048, int(row.workload["seq"])))
    precision = Precision.preset(row.dtype["weights"])
    best: Total | None = None
    options = list(_plans(row))
    for plan, work in options:
        check_training(model, plan, work, precision, engine)
        timeline = training_timeline(
            model, training_memory(plan, work.micro_batch, work.global_batch, work.seq), precision, engine
        )
        if len(options) > 1 and float(np.max(peak(timeline))) > device.hardware.memory:
            continue
        whole = step_time(model, split_of(plan, work), precision, engine, device).whole
        if best is None or float(np.max(whole.time)) < float(np.max(best.time)):
            best = whole
    if best is None:
        raise UnsupportedError(f"row {row.id}: no schedule fits in memory")
    return _prediction(row, widen(best, error))


def _inference_row(row: Row, device: Efficiency, error: float) -> Prediction:
    plan = ParallelPlan(tp=int(row.parallel["tp"]), pp=int(row.parallel["pp"]))
    deployment = Deployment(row.model.spec(), plan, Precision.preset(row.dtype["weights"]), engine_of(row), device)
    whole = widen(generate(deployment, generation_of(row)).latency, error)
    if row.metric == "latency_s":
        return _prediction(row, whole)
    tokens = float(row.workload["batch"]) * float(row.workload["output"]) / float(row.hardware["count"])
    time, low, high = (float(np.max(part)) for part in (whole.time, whole.low, whole.high))
    return Prediction(row, tokens / time, tokens / high, tokens / low)


def _saturated_row(row: Row, device: Efficiency, error: float) -> Prediction:
    plan = ParallelPlan(tp=int(row.parallel["tp"]), pp=int(row.parallel["pp"]))
    deployment = Deployment(row.model.spec(), plan, Precision.preset(row.dtype["weights"]), engine_of(row), device)
    _, rate = saturated(deployment, int(row.workload["input"]), int(row.workload["output"]))
    return _prediction(row, widen(rate, error))


def generation_of(row: Row) -> Generation:
    """The static batch of an inference row."""
    work = row.workload
    return Generation(
        batch=int(work["batch"]), prompt=int(work["input"]), output=int(work["output"]),
        sampling="top_p" if "top_p" in str(work.get("sampling", "")) else "greedy",
    )  # fmt: skip


def _memory_row(row: Row, device: Efficiency, engine: Engine) -> Prediction:
    quantity = row.workload.get("quantity")
    if quantity is not None:
        return _formula_row(row, engine, str(quantity))
    parts = memory_parts(row, engine)
    used = sum(parts.values())
    if row.metric == "fits":
        fits = 1.0 if used <= device.hardware.memory else 0.0
        return Prediction(row, fits, fits, fits)
    reserve = parts["framework and communicator"]
    work = parts["activations"]
    return Prediction(row, used, used - 0.4 * reserve - 0.3 * work, used + 5.0 * reserve + 1.0 * work)


def memory_parts(row: Row, engine: Engine) -> dict[str, float]:
    """Bytes by kind that an inference row holds."""
    plan = ParallelPlan(tp=int(row.parallel["tp"]), pp=int(row.parallel["pp"]))
    precision = Precision.preset(row.dtype["weights"])
    parts = serving_parts(row.model.spec(), plan, generation_of(row), precision, engine)
    return {name: float(np.max(value)) for name, value in parts.items()}


def _formula_row(row: Row, engine: Engine, quantity: str) -> Prediction:
    plan, work = next(iter(_plans(row)))
    at = training_memory(plan, work.micro_batch, work.global_batch, work.seq)
    timeline = training_timeline(row.model.spec(), at, Precision.preset(row.dtype["weights"]), engine)
    parts = timeline[1].parts
    names = ("activations",) if quantity == "activations" else ("weights", "gradients", "optimizer")
    value = float(sum(float(np.max(parts[name])) for name in names))
    return Prediction(row, value, 0.9 * value, 1.1 * value)


def _prediction(row: Row, whole: Total) -> Prediction:
    return Prediction(row, float(np.max(whole.time)), float(np.max(whole.low)), float(np.max(whole.high)))


def conformal_stretch(predictions: list[Prediction]) -> float:
    """How far intervals must be stretched in the logarithm to cover 90 % of rows like these.

    Split conformal prediction (Lei et al., J. Am. Stat. Assoc. 113, 2018) with the interval's own half-width as the
    scale of the error: the ceil((n + 1) 0.9)-th smallest of measured distance over half-width, or the largest there is.
    """
    scores = np.sort([_distance(prediction) for prediction in predictions])
    rank = min(len(scores), int(np.ceil((len(scores) + 1) * INTERVAL_TARGET)))
    return float(scores[rank - 1])


def _distance(prediction: Prediction) -> float:
    """Measured from expected value over expected value to the interval's end on that side, in the logarithm."""
    off = float(np.log(prediction.row.value / prediction.value))
    end = prediction.high if off > 0 else prediction.low
    return abs(off) / max(abs(float(np.log(end / prediction.value))), 1e-9)


def validate(level: Level = "prior", suites: tuple[str, ...] = ()) -> list[Suite]:
    """Every suite judged blind; intervals stretched by the other suites of the same kind."""
    rows: dict[str, list[Row]] = {}
    for row in shipped_rows():
        rows.setdefault(row.suite, []).append(row)
    central = {name: _run(members, level, 1.0) for name, members in rows.items()}
    out = []
    for name, members in rows.items():
        if suites and name not in suites:
            continue
        if name == "C13-mem":  # the shipped reserve of this engine is fitted to these rows: never judge it on them
            out += [_cross_fitted_memory(members), _blind_memory(members)]
            continue
        factor = 1.0
        kind = KINDS.get(name)
        others = [other for other in rows if other != name and KINDS.get(other) == kind]
        if kind and others:
            factor = conformal_stretch([item for other in others for item in central[other][0]])
        predictions, failures = _run(members, level, factor)
        out.append(Suite(name, TITLES.get(name, name), len(members), tuple(predictions), tuple(failures), factor))
    return out


def _run(rows: list[Row], level: Level, error: float) -> tuple[list[Prediction], list[tuple[str, str]]]:
    predictions, failures = [], []
    for row in rows:
        try:
            predictions.append(predict(row, level, error))
        except StratoscopeError as problem:
            failures.append((row.id, str(problem)))
    return predictions, failures


def _cross_fitted_memory(rows: list[Row]) -> Suite:
    """Buffers counted in the engine's source; its reserve alone from the rows of the other models."""
    device = efficiency(find_hardware("a100"))
    predictions = []
    for name in sorted({row.model.name for row in rows}):
        fitted = fit_reserve(engine_of(rows[0]), [row for row in rows if row.model.name != name])
        predictions += [_memory_row(row, device, fitted) for row in rows if row.model.name == name]
    note = "the engine's reserve, one number, comes from the rows of the other model (leave one model out)"
    return Suite("C13-mem", TITLES["C13-mem"], len(rows), tuple(predictions), (), 1.0, note)


def _blind_memory(rows: list[Row]) -> Suite:
    """The same rows with the reserve that somebody else measured for this engine: nothing of them was seen."""
    device = efficiency(find_hardware("a100"))
    engine = engine_of(rows[0]).model_copy(update={"reserve_bytes": PUBLISHED_RESERVE})
    predictions = tuple(_memory_row(row, device, engine) for row in rows)
    note = "blind: the reserve is a user's figure for the C++ example on another device (FasterTransformer issue 371)"
    return Suite("C13-mem blind", TITLES["C13-mem"], len(rows), predictions, (), 1.0, note)


def fit_reserve(engine: Engine, rows: list[Row]) -> Engine:
    """The engine with the reserve that the rows imply: the median of measured bytes less the counted ones."""
    bare = engine.model_copy(update={"reserve_bytes": 0.0})
    rest = [row.value - sum(memory_parts(row, bare).values()) for row in rows]
    return engine.model_copy(update={"reserve_bytes": max(0.0, float(np.median(rest)))})


def suite_document(suite: Suite) -> dict[str, object]:
    """A suite as JSON-ready data."""
    return {
        "suite": suite.name, "title": suite.title, "rows": suite.rows, "coverage": suite.coverage, "mape": suite.mape,
        "bias": suite.bias, "interval_coverage": suite.interval_coverage, "stretch": suite.error,
        "note": suite.note, "failures": [list(failure) for failure in suite.failures],
        "predictions": [
            {"id": p.row.id, "predicted": p.value, "low": p.low, "high": p.high, "published": p.row.value,
             "unit": p.row.unit, "source": p.row.source}
            for p in suite.predictions
        ],
    }  # fmt: skip

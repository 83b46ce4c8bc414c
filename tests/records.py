"""Plausible run records for tests: every section filled, every field of it open to override."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stratoscope.spec.base import digest_of
from stratoscope.spec.model import ModelManifest, TensorSpec
from stratoscope.spec.record import (
    AccuracySection,
    BackendRecord,
    ClientVerdict,
    ColdStartSection,
    Digests,
    GraphSection,
    LayerRow,
    LoadSection,
    NoiseRecord,
    ProfileSection,
    RunRecord,
    SweepPoint,
    SweepSection,
    Unavailable,
    Validity,
)
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.stats.quantity import Quantity
from stratoscope.store.ids import new_run_id

SOFTWARE: dict[str, Any] = {
    "schema": "stratoscope/software/1",
    "python": "3.11.2",
    "stratoscope": "0.1.0",
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.31.1"},
    "build_flags": {"onnxruntime": {"status": "unavailable", "reason": "the wheel does not tell"}},
}
HARDWARE: dict[str, Any] = {
    "schema": "stratoscope/hardware/1",
    "cpu": {"model": "AMD EPYC 7B13", "isa": ["avx2", "fma"], "logical": 2, "l3_bytes": 33554432},
    "memory_bytes": 8 * 2**30,
    "governor": {"status": "unavailable", "reason": "no cpufreq on this machine"},
    "gpus": [],
}


def estimate(value: float, unit: str, statistic: str = "median", n: int = 200, spread: float = 0.02) -> Quantity:
    """An estimated number with a symmetric 95 % interval of `spread` either side."""
    return Quantity(
        value=value,
        unit=unit,
        statistic=statistic,
        n=n,
        ci_low=value * (1 - spread),
        ci_high=value * (1 + spread),
        confidence=0.95,
    )


def noise() -> NoiseRecord:
    """A quiet machine that does not tell its throttling."""
    return NoiseRecord(
        wall_s=Quantity.exact(3.2, "s", "sum"),
        thread_cpu_s=Quantity.exact(3.1, "s", "sum"),
        run_queue_wait_s=Quantity.exact(0.004, "s", "sum"),
        involuntary_switches=Quantity.exact(7, "1"),
        steal_s=Quantity.exact(0.0, "s", "sum"),
        load_average=Quantity.exact(0.9, "1", "value"),
        throttled=Quantity.unavailable("1", "no cgroup CPU controller here", "count"),
        accepted=20,
        rejected=1,
        quiet=True,
    )


def load_section(scenario: ScenarioManifest) -> LoadSection:
    """A valid single-stream result of 310 queries around 10 ms, with one percentile too few samples justify."""
    latency = {
        "mean": estimate(0.0102, "s", "mean", 310),
        "median": estimate(0.0100, "s", "median", 310),
        "trimmed_mean": estimate(0.0101, "s", "trimmed_mean", 310),
        "min": Quantity.exact(0.0094, "s", "min"),
        "max": Quantity.exact(0.0161, "s", "max"),
        "p50": estimate(0.0100, "s", "p50", 310),
        "p90": estimate(0.0108, "s", "p90", 310),
        "p99": estimate(0.0139, "s", "p99", 310, 0.09),
        "p99.9": Quantity.unjustified("s", "310 samples justify no 99.9th percentile", "p99.9", 310),
        "early_stopping_p90": Quantity(value=0.0110, unit="s", statistic="early_stopping_p90", n=310),
    }
    return LoadSection(
        scenario=scenario,
        queries=310,
        samples=310,
        duration_s=Quantity.exact(3.2, "s", "sum"),
        latency=latency,
        throughput=estimate(96.9, "1/s", "mean", 310),
        headline="early_stopping_p90",
        validity=Validity(valid=True, source="loadgen"),
        client=ClientVerdict(
            bottleneck=False,
            overhead_per_query_s=estimate(8.1e-6, "s"),
            send_lag_p99_s=Quantity(value=2.4e-5, unit="s", statistic="p99", n=310),
            reason="the null back end reaches 9,800 queries a second under this load",
        ),
        noise=noise(),
        loadgen={"result_90.00_percentile_latency_ns": 10800000, "effective_min_query_count": 64},
    )


def sweep_section() -> SweepSection:
    """Throughput that saturates after batch 8."""
    rates = {1: 97.0, 2: 128.0, 4: 151.0, 8: 163.0, 16: 166.0}
    points = tuple(
        SweepPoint(batch_size=batch, latency=estimate(batch / rate, "s"), throughput=estimate(rate, "1/s"))
        for batch, rate in rates.items()
    )
    return SweepSection(
        points=points, optimal_batch=8, saturated=True, reason="doubling to 16 gained 1.8 %, at most 5 %"
    )


def profile_section() -> ProfileSection:
    """Four executed layers that sum to 9.6 ms inside a 10 ms inference."""
    kinds = (("conv1", "FusedConv", 5.2e-3), ("pool1", "MaxPool", 0.4e-3), ("fc", "Gemm", 3.8e-3))
    rows: list[LayerRow] = []
    start_ns = 100_000
    for index, (name, op, seconds) in enumerate((*kinds, ("prob", "Softmax", 0.2e-3))):
        duration_ns = round(seconds * 1e9)
        rows.append(
            LayerRow(
                index=index,
                name=name,
                op=op,
                authored=(name, f"{name}_relu") if op == "FusedConv" else (name,),
                output_shape=(1, 64, 56, 56) if index < 2 else (1, 1000),
                output_type="float32",
                time=estimate(seconds, "s", n=20),
                share=seconds / 9.6e-3,
                start_ns=start_ns,
                duration_ns=duration_ns,
                flops=Quantity.exact(2.0e8 * (index + 1), "FLOP")
                if op != "Softmax"
                else Quantity.unavailable("FLOP", "no work function for Softmax", "count"),
                bytes=Quantity.exact(1.0e6 * (index + 1), "byte"),
                parameters=Quantity.exact(9408.0 if index == 0 else 0.0, "1"),
                allocated=Quantity.unavailable("byte", "the runtime does not tell"),
                provider="CPUExecutionProvider",
                signature=f"{op}-{index}",
            )
        )
        start_ns += duration_ns + 50_000
    return ProfileSection(
        backend="onnxruntime",
        repeats=20,
        model_time=estimate(0.0100, "s", n=20),
        profiled_model_time=estimate(0.0101, "s", n=20),
        overhead=estimate(1.0e-4, "s", n=20, spread=2.0),
        overhead_below_noise=True,
        layers_sum=estimate(9.6e-3, "s", n=20),
        gap=estimate(5.0e-4, "s", n=20, spread=0.3),
        checks={"layers lie inside the model span": True, "layers do not overlap on one track": True},
        layers=tuple(rows),
        noise=noise(),
        note="one inference of 20 shown, the one nearest the median",
    )


def model_manifest(name: str = "resnet50") -> ModelManifest:
    """An image classifier with batch 1."""
    return ModelManifest(
        id=name,
        task="image-classification",
        description="a test model",
        sha256=digest_of(name),
        inputs=(TensorSpec(name="data_0", element_type="float32", shape=(1, 3, 224, 224)),),
        outputs=(TensorSpec(name="prob_1", element_type="float32", shape=(1, 1000)),),
        weights="seeded",
        weights_seed=0,
    )


def digests_of(
    model: ModelManifest,
    scenario: ScenarioManifest,
    software: dict[str, Any],
    hardware: dict[str, Any],
    dataset: dict[str, Any] | None,
) -> Digests:
    """The five digests that belong to these parts."""
    return Digests(
        model=model.digest(),
        dataset=digest_of(dataset),
        software=digest_of(software),
        hardware=digest_of(hardware),
        scenario=scenario.digest(),
    )


def make_record(**overrides: Any) -> RunRecord:
    """A complete record with all sections; `overrides` replaces fields, and digests and key follow the parts given.

    `model` may be a name. Sections are dropped with `load=None` and so on.
    """
    if isinstance(overrides.get("model"), str):
        overrides["model"] = model_manifest(overrides["model"])
    fields: dict[str, Any] = {
        "id": new_run_id(),
        "created_at": datetime(2025, 11, 21, 12, 30, 0, 250000, tzinfo=UTC),
        "model": model_manifest(),
        "scenario": ScenarioManifest(),
        "software": SOFTWARE,
        "hardware": HARDWARE,
        "dataset": {"id": "generated", "seed": 0},
        "backend": BackendRecord(
            name="onnxruntime",
            version="1.31.1",
            options={"threads": 2, "graph_optimization": "all"},
            levels=("MODEL", "LAYER"),
        ),
        "graph": GraphSection(
            layers=5,
            unique_layers=4,
            flops=Quantity.exact(7.7e9, "FLOP"),
            parameters=Quantity.exact(25_557_032, "1"),
            parameter_bytes=Quantity.exact(102_228_128, "byte"),
            activation_bytes=Quantity.exact(8.8e7, "byte"),
            by_type={"Conv": 1, "Relu": 1, "MaxPool": 1, "Gemm": 1, "Softmax": 1},
            unknown_work=("Softmax x 1",),
        ),
        "cold_start": ColdStartSection(
            import_s=estimate(0.21, "s", n=5),
            load_s=estimate(0.34, "s", n=5),
            first_inference_s=estimate(0.018, "s", n=5),
            steady_s=estimate(0.0100, "s", n=310),
        ),
        "sweep": sweep_section(),
        "accuracy": AccuracySection(
            dataset="digits",
            samples=360,
            metrics={"top1": estimate(0.975, "1", "proportion", 360, 0.015)},
            labels=("zero", "one"),
            confusion=((178, 2), (7, 173)),
        ),
        "profile": profile_section(),
        "outputs_sha256": digest_of("outputs"),
        "unavailable": (Unavailable(what="GPU kernels", why="no GPU on this machine"),),
    }
    fields.update(overrides)
    if "load" not in overrides:
        fields["load"] = load_section(fields["scenario"])
    fields.setdefault("command", f"stratoscope diagnose {fields['model'].id}")
    parts = (fields["model"], fields["scenario"], fields["software"], fields["hardware"], fields["dataset"])
    fields.setdefault("digests", digests_of(*parts))
    fields.setdefault("key", fields["digests"].key())
    return RunRecord(**fields)

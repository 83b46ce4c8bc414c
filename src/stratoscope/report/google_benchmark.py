"""Writes a machine record in Google Benchmark's JSON format, which SCOPE's tools and benchmark's compare.py read.

Source of the format: google/benchmark, src/json_reporter.cc and docs/user_guide.md ("Output Formats"). Each repeat is a
row of run_type "iteration"; median, mean, stddev and cv follow as "aggregate" rows. A rate is `bytes_per_second`, or
for FLOP/s the counter `FLOPS`; parameters are counters and labels. The whole record is in the context, "stratoscope".
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from stratoscope.spec.machine import MachineRecord, Measurement

_NS = 1e9


def google_benchmark_json(record: MachineRecord) -> str:
    """The record as text: UTF-8, two spaces of indent, no NaN."""
    document = {"context": _context(record), "benchmarks": list(_rows(record))}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _context(record: MachineRecord) -> dict[str, Any]:
    cpu = record.hardware.cpu
    clock = record.state.summary.get("cpu_clock")
    load = record.noise.load_average.value
    return {
        "date": record.created_at.isoformat(timespec="seconds"),
        "host_name": record.hardware.hostname or "",
        "executable": record.command or "stratoscope machine",
        "num_cpus": cpu.logical_cpus or 0,
        "mhz_per_cpu": round(clock.value / 1e6) if clock is not None and clock.value is not None else 0,
        "cpu_scaling_enabled": cpu.governor is not None and cpu.governor != "performance",
        "caches": [
            {
                "type": {"data": "Data", "instruction": "Instruction", "unified": "Unified"}[cache.type],
                "level": cache.level,
                "size": cache.size_bytes,
                "num_sharing": cache.shared_by,
            }
            for cache in cpu.caches or ()
        ],
        "load_avg": [] if load is None else [load],
        "library_build_type": "release",
        "stratoscope": json.loads(record.model_dump_json(by_alias=True)),
    }


def _rows(record: MachineRecord) -> Iterator[dict[str, Any]]:
    families: dict[str, int] = {}
    instances: dict[str, int] = {}
    for found in record.measurements:
        family = "/".join(found.name.split("/")[:2])
        head = {
            "family_index": families.setdefault(family, len(families)),
            "per_family_instance_index": instances.get(family, 0),
            "run_name": found.name,
            "repetitions": len(found.samples_s),
            "threads": int(found.parameters.get("threads", 1)),
        }
        instances[family] = instances.get(family, 0) + 1
        for index, (sample, cpu) in enumerate(zip(found.samples_s, found.cpu_samples_s, strict=True)):
            yield {
                "name": found.name,
                **head,
                "run_type": "iteration",
                "repetition_index": index,
                **_figures(found, found.iterations, sample, cpu),
            }
        yield from _aggregates(found, head)
    for missing in record.unavailable:
        yield {
            "name": missing.what,
            "run_name": missing.what,
            "run_type": "iteration",
            "repetitions": 0,
            "repetition_index": 0,
            "threads": 1,
            "error_occurred": True,
            "error_message": missing.why,
            "iterations": 0,
            "real_time": 0.0,
            "cpu_time": 0.0,
            "time_unit": "ns",
        }


def _aggregates(found: Measurement, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Aggregates over the repeats; their "iterations" are the number of repeats, as in Google Benchmark."""
    wall, cpu = _aggregated(found.samples_s), _aggregated(found.cpu_samples_s)
    for name, value in wall.items():
        row = {
            "name": f"{found.name}_{name}",
            **head,
            "run_type": "aggregate",
            "aggregate_name": name,
            "aggregate_unit": "percentage" if name == "cv" else "time",
        }
        if name in {"median", "mean"}:
            yield row | _figures(found, len(found.samples_s), value, cpu[name])
        else:
            scale = 1.0 if name == "cv" else _NS
            times = {"real_time": value * scale, "cpu_time": cpu[name] * scale, "time_unit": "ns"}
            yield row | {"iterations": len(found.samples_s)} | times


def _aggregated(samples: Sequence[float]) -> dict[str, float]:
    """Median and mean; from two samples on their standard deviation and its ratio to the mean."""
    values = {"median": statistics.median(samples), "mean": statistics.fmean(samples)}
    if len(samples) > 1:
        values["stddev"] = statistics.stdev(samples)
        values["cv"] = values["stddev"] / values["mean"] if values["mean"] else 0.0
    return values


def _figures(found: Measurement, iterations: int, time_s: float, cpu_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "iterations": iterations,
        "real_time": time_s * _NS,
        "cpu_time": cpu_s * _NS,
        "time_unit": "ns",
    }
    if found.figure.unit == "byte/s" and found.bytes.value is not None:
        row["bytes_per_second"] = found.bytes.value / time_s
    if found.figure.unit == "FLOP/s" and found.flops.value is not None:
        row["FLOPS"] = found.flops.value / time_s
    numbers = {
        key: value
        for key, value in found.parameters.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "threads"
    }
    words = " ".join(f"{key}={value}" for key, value in found.parameters.items() if isinstance(value, str))
    return row | {key: float(value) for key, value in numbers.items()} | ({"label": words} if words else {})

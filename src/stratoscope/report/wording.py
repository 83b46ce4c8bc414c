"""The words around the numbers: what was asked, what judges it, on which machine, how quiet; for all renderings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stratoscope.report.format import UNAVAILABLE, bare, count, statistic_label, text
from stratoscope.spec.record import ClientVerdict, LoadSection, NoiseRecord, RunRecord, SweepSection
from stratoscope.spec.scenario import ScenarioKind, ScenarioManifest
from stratoscope.stats.quantity import Quantity

#: Keys of a manifest that identify it and describe no part of the environment.
_NOT_FACTS = frozenset({"schema", "schema_", "id", "version", "unavailable"})

#: A verdict's colour: good, to be looked at, bad, or cannot tell.
Tone = Literal["good", "warn", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement in a word, with its reason in a sentence."""

    word: str
    tone: Tone
    reason: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The one figure of a record: what it is, and its value."""

    label: str
    quantity: Quantity


def headline(record: RunRecord) -> Headline | None:
    """The figure that the scenario is judged by; without a load, the model's time; None where neither was measured."""
    if record.load is not None:
        load = record.load
        if load.headline == "throughput":
            return Headline("throughput", load.throughput)
        if load.headline in load.latency:
            return Headline(latency_label(load.headline), load.latency[load.headline])
    if record.training is not None:
        return Headline("time of one training step", record.training.step_time)
    if record.generation is not None:
        return Headline("time to the first token", record.generation.ttft)
    if record.profile is not None:
        return Headline("time of one inference", record.profile.model_time)
    return None


def latency_label(key: str) -> str:
    """A latency's key in words: "90th percentile latency (early-stopping estimate)"."""
    bound = key.removeprefix("early_stopping_")
    return f"{statistic_label(bound)} latency" + (" (early-stopping estimate)" if bound != key else "")


def latency_short(key: str) -> str:
    """A latency's key for a narrow column: "p90", "p90 early stopping", "trimmed mean"."""
    bound = key.removeprefix("early_stopping_")
    return f"{bound} early stopping" if bound != key else key.replace("_", " ")


def load_words(scenario: ScenarioManifest) -> str:
    """The load in words: "server: Poisson arrivals at 20 /s, latency bound 100 ms at p99, batch 1"."""
    parts = {
        ScenarioKind.SINGLE_STREAM: "one query at a time",
        ScenarioKind.MULTI_STREAM: f"{scenario.samples_per_query} samples a query, one query at a time",
        ScenarioKind.SERVER: "Poisson arrivals" + _at_rate(scenario),
        ScenarioKind.OFFLINE: "all samples at once",
        ScenarioKind.CONCURRENCY: f"{scenario.concurrency} queries in flight",
        ScenarioKind.CONSTANT_RATE: "evenly spaced arrivals" + _at_rate(scenario),
        ScenarioKind.REPLAY: f"send times of {scenario.trace_file or 'a trace'}",
        ScenarioKind.COLD: "the first answer of fresh processes",
    }
    words = [parts[scenario.kind]]
    if scenario.kind is ScenarioKind.SERVER and scenario.target_latency_s is not None:
        words.append(f"latency bound {bare(scenario.target_latency_s, 's')} at p{scenario.target_percentile * 100:g}")
    words.append(f"batch {scenario.batch_size}")
    return f"{scenario.kind}: {', '.join(words)}"


def sentence(words: str) -> str:
    """A capital in front and one full stop at the end, also where a reason brought its own."""
    return f"{words[0].upper()}{words[1:].rstrip('. ')}."


def load_size(load: LoadSection) -> str:
    """How much was answered: "310 queries"; with the samples where a query holds several."""
    size = count(load.queries, "query", "queries")
    return size if load.samples == load.queries else f"{size} of {count(load.samples, 'sample')} in all"


def validity(record: RunRecord) -> Verdict | None:
    """VALID or INVALID by the scenario's rules, or INTERRUPTED or FAILED; None for a complete run without a load."""
    if record.status != "complete":
        return Verdict(record.status.upper(), "bad", record.status_reason or "the run did not end")
    if record.load is None:
        return None
    rules = record.load.validity
    reason = "; ".join(rules.reasons)
    judge = "LoadGen" if rules.source == "loadgen" else "Stratoscope"
    if rules.valid:
        return Verdict("VALID", "good", reason or f"satisfies the scenario's rules ({judge})")
    return Verdict("INVALID", "bad", reason or f"{judge} gives no reason")


def client(verdict: ClientVerdict) -> Verdict:
    """Whether the load generator was the bottleneck."""
    if verdict.bottleneck is None:
        return Verdict("not known", "unknown", verdict.reason)
    if verdict.bottleneck:
        return Verdict("bottleneck", "bad", verdict.reason)
    return Verdict("not the bottleneck", "good", verdict.reason)


def noise(record: NoiseRecord) -> Verdict:
    """The noise gate's verdict in short: how many repeats it refused, or its reason where it counted none."""
    repeats = record.accepted + record.rejected
    refused = f"{count(record.rejected)} of {count(repeats, 'repeat')} refused" if repeats else None
    short = refused or record.reason
    if record.quiet is None:
        return Verdict("not known", "unknown", record.reason or "the machine does not tell")
    if record.quiet:
        return Verdict("quiet", "good", short or "no disturbance seen")
    return Verdict("noisy", "warn", short or "disturbances were seen")


def batch(sweep: SweepSection) -> str:
    """The optimal batch in a sentence, or why there is none."""
    reason = sweep.reason.rstrip(". ")
    if sweep.optimal_batch is None:
        return f"No optimal batch: {reason or 'the sweep did not reach one'}."
    known = f"Batch {sweep.optimal_batch} is optimal"
    if not sweep.saturated:
        known = f"Batch {sweep.optimal_batch} is the best seen; the sweep ended before throughput stopped growing"
    return f"{known} ({reason})." if reason else f"{known}."


def machine_line(hardware: Mapping[str, Any]) -> str:
    """The machine on one line: CPU, cores, memory, GPUs, what of them is ours; without what it does not tell."""
    cpu, memory, allowance = (_branch(hardware, name) for name in ("cpu", "memory", "allowance"))
    parts = [str(cpu["model"])] if cpu.get("model") else []
    cores, logical = cpu.get("physical_cores"), cpu.get("logical_cpus")
    if isinstance(cores, int):
        threads = f" ({logical} hardware threads)" if isinstance(logical, int) and logical != cores else ""
        parts.append(f"{cores} core{'s' if cores != 1 else ''}{threads}")
    elif isinstance(logical, int):
        parts.append(f"{logical} logical CPU{'s' if logical != 1 else ''}")
    ours, quota = allowance.get("cpus"), allowance.get("cpu_quota")
    if isinstance(ours, list | tuple) and isinstance(logical, int) and len(ours) < logical:
        parts.append(f"{len(ours)} CPUs allowed")
    if isinstance(quota, int | float):
        parts.append(f"quota of {quota:g} CPUs")
    if isinstance(memory.get("total_bytes"), int):
        parts.append(f"{bare(memory['total_bytes'], 'byte')} memory")
    parts += [str(gpu.get("name", "a GPU")) for gpu in hardware.get("gpus") or () if isinstance(gpu, Mapping)]
    return " · ".join(parts) or "a machine that was not described"


def backend_line(record: RunRecord) -> str:
    """The back end, its version, and the threads where it tells."""
    return f"{record.backend.name} {record.backend.version}"


@dataclass(frozen=True, slots=True)
class Fact:
    """A leaf of an environment manifest: its path, its value as text, and why there is none where there is none."""

    path: str
    value: str
    reason: str | None = None


def facts(manifest: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The leaves of a software or hardware manifest; an absent value is "unavailable", with the manifest's reason."""
    reasons = _branch(manifest, "unavailable")
    content = {key: value for key, value in manifest.items() if key not in _NOT_FACTS}
    return tuple(_leaves(content, "", reasons)) if content else ()


def latency_keys(load: LoadSection) -> list[str]:
    """The keys of `latency` in the order in which people read them: location, percentiles upwards, the extremes."""
    order = {"mean": 0, "trimmed_mean": 1, "median": 2, "min": 3, "max": 5}

    def place(key: str) -> tuple[int, float, str]:
        number = key.removeprefix("early_stopping_").removeprefix("p")
        if number.replace(".", "", 1).isdigit():
            return 4, float(number), key
        return order.get(key, 6), 0.0, key

    return sorted(load.latency, key=place)


def _branch(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a manifest that is a mapping; empty where it is absent."""
    branch = tree.get(name)
    return branch if isinstance(branch, Mapping) else {}


def _leaves(tree: Any, path: str, reasons: Mapping[str, Any]) -> Iterator[Fact]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key), reasons)
    elif isinstance(tree, list | tuple) and any(isinstance(item, Mapping) for item in tree):
        for index, item in enumerate(tree):
            leaves = tuple(_leaves(item, f"{path}.{index}", reasons))
            words = (f"{leaf.path.removeprefix(f'{path}.{index}.')}: {leaf.value}" for leaf in leaves)
            yield Fact(f"{path}.{index}", "; ".join(words))
    elif tree is None and path in reasons:
        yield Fact(path, UNAVAILABLE, str(reasons[path]))
    elif tree is not None and tree != "":
        yield Fact(path, _leaf(path, tree))


def _leaf(path: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_leaf(path, item) for item in value) or "none"
    if isinstance(value, Mapping):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and path.endswith("_bytes"):
        return text(Quantity.exact(value, "byte"))
    if isinstance(value, int | float) and path.endswith("_hz"):
        return f"{value / 1e9:.3f} GHz"
    return str(value)


def _at_rate(scenario: ScenarioManifest) -> str:
    return f" at {bare(scenario.target_qps, '1/s')}" if scenario.target_qps is not None else ""

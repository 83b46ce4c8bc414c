"""The sentences: each says exactly what the record's figures say, and what limits trust comes first."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from stratoscope.report.findings import MOST, findings
from stratoscope.spec.profile import Reorders
from stratoscope.spec.record import ClientVerdict, RunRecord, Validity
from stratoscope.stats.quantity import Quantity


def sentences(record: RunRecord) -> list[str]:
    return [finding.sentence for finding in findings(record)]


def test_a_full_record_is_told_in_its_own_figures(make_record: Callable[..., RunRecord]) -> None:
    assert sentences(make_record()) == [
        "54 % of the layer time is in FusedConv (1 of 4 layers); the slowest layer is conv1 (5.20 ms ± 0.10, 54 %).",
        "The load generator was not the bottleneck (8.10 µs ± 0.16 a query).",
        "The machine was quiet during the load measurement: 1 of 21 repeats refused.",
        "Batch 8 is optimal (doubling to 16 gained 1.8 %, at most 5 %). "
        "It gives 163 /s ± 3, 1.68 times the throughput of batch 1.",
        "Import, load and first inference take 568 ms: 57 times a steady inference.",
        "top1 is 97.5 % ± 1.5 on 360 samples of digits.",
    ]


def test_an_empty_record_is_told_in_no_sentence(bare_record: RunRecord) -> None:
    assert sentences(bare_record) == []


def test_what_limits_trust_comes_first(make_record: Callable[..., RunRecord], records: ModuleType) -> None:
    record = make_record()
    assert record.load is not None
    assert record.profile is not None
    noisy = record.load.noise.model_copy(update={"quiet": False, "reason": "3 % of the CPU was stolen"})
    client = ClientVerdict(
        bottleneck=True,
        overhead_per_query_s=Quantity.unavailable("s", "no null back end"),
        send_lag_p99_s=Quantity.exact(1e-3, "s", "p99"),
        reason="the null back end reaches 12 queries a second.",
    )
    load = record.load.model_copy(
        update={"noise": noisy, "client": client, "validity": Validity(valid=False, reasons=("64 queries needed",))}
    )
    profile = record.profile.model_copy(
        update={"checks": {"layers_lie_inside": False}, "gap": records.estimate(2.02e-3, "s")}
    )
    found = findings(record.model_copy(update={"load": load, "profile": profile}))
    assert [finding.sentence for finding in found[:5]] == [
        "This result is INVALID: 64 queries needed.",
        "The load generator was the bottleneck: the null back end reaches 12 queries a second.",
        "The machine was noisy during the load measurement: 1 of 21 repeats refused.",
        "The profile fails a conservation check: layers lie inside.",
        "20 % of the profiled model time (2.02 ms ± 0.04) passes between layers.",
    ]
    assert [finding.tone for finding in found[:5]] == ["bad", "bad", "warn", "bad", "warn"]
    assert len(found) == MOST


def test_a_profile_under_other_conditions_than_the_load_is_called_so(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    slow = records.profile_section().model_copy(update={"model_time": records.estimate(0.025, "s", n=20)})
    assert sentences(make_record(profile=slow))[0] == (
        "An inference took 25.0 ms ± 0.5 around the profile but 10.00 ms ± 0.20 under the load: "
        "compare shares, not times."
    )
    near = records.profile_section().model_copy(update={"model_time": records.estimate(0.0108, "s", n=20)})
    assert not any("compare shares" in sentence for sentence in sentences(make_record(profile=near)))


def test_quiet_is_said_of_the_measurement_that_was_quiet(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    noisy = records.noise().model_copy(update={"quiet": False, "rejected": 18, "accepted": 18})
    told = sentences(make_record(profile=records.profile_section().model_copy(update={"noise": noisy})))
    assert [sentence for sentence in told if "The machine was" in sentence] == [
        "The machine was noisy during the profile measurement: 18 of 36 repeats refused.",
        "The machine was quiet during the load measurement: 1 of 21 repeats refused.",
    ]


def test_an_interrupted_run_says_so(make_record: Callable[..., RunRecord]) -> None:
    record = make_record(status="interrupted", status_reason="Ctrl-C during: layers")
    assert sentences(record)[0] == "This result is INTERRUPTED: Ctrl-C during: layers."


def test_a_sweep_that_did_not_saturate_is_not_called_optimal(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    sweep = records.sweep_section().model_copy(update={"saturated": False, "reason": "memory", "optimal_batch": 16})
    told = next(sentence for sentence in sentences(make_record(sweep=sweep)) if sentence.startswith("Batch"))
    assert told.startswith(
        "Batch 16 is the best seen; the sweep ended before throughput stopped growing (memory). It gives 166 /s ± 3,"
    )


def test_repacking_of_weights_is_told_where_it_takes_a_share_worth_a_sentence(
    make_record: Callable[..., RunRecord], records: ModuleType
) -> None:
    record = make_record()
    assert record.profile is not None

    def told(part: float) -> list[str]:
        reorders = Reorders(
            weights=records.estimate(9e-3, "s"),
            weights_share=part,
            weights_count=20.0,
            activations=records.estimate(1e-3, "s"),
            activations_share=0.01,
            activations_count=39.0,
        )
        profile = record.profile and record.profile.model_copy(update={"reorders": reorders})
        return sentences(record.model_copy(update={"profile": profile}))

    (sentence,) = [one for one in told(0.057) if "layout" in one]
    assert sentence.startswith("Weights are brought into another layout at every inference: 9.0")
    assert sentence.endswith("(5.7 %) in 20 calls.")
    assert not any("layout" in one for one in told(0.01))

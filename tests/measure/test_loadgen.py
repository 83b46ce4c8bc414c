"""LoadGen's results against its own summary file, to the digit, and what Ctrl-C and failures do to it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stratoscope.backends.base import Session
from stratoscope.backends.registry import get_backend
from stratoscope.errors import MeasurementError
from stratoscope.measure import loadgen
from stratoscope.measure.client import judge_client, null_scenario
from stratoscope.measure.load import LoadResult, run_load
from stratoscope.measure.load_section import PERCENTILES
from stratoscope.measure.loadgen import loadgen_missing, run_loadgen
from stratoscope.measure.loadgen_logs import check_whole, read_detail, read_samples, read_summary
from stratoscope.measure.scheduler import run_mlperf
from stratoscope.measure.validity import judge
from stratoscope.models.resolve import resolve
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.scenario import MLPERF_SCENARIOS, ScenarioKind, ScenarioManifest
from stratoscope.stats.percentile import allowed_overlatency, early_stopping_estimate, percentile_name

pytestmark = pytest.mark.skipif(loadgen_missing() is not None, reason="LoadGen has no wheel for this platform")

MLPERF = sorted(MLPERF_SCENARIOS)


def scenario(kind: ScenarioKind, **fields: object) -> ScenarioManifest:
    quick = {"min_duration_s": 0.25, "warmup_s": 0.02, "samples_per_query": 4}
    return ScenarioManifest(kind=kind, **(quick | fields))  # type: ignore[arg-type]


class Summary:
    """LoadGen's summary file, read by the test itself: the first value behind a name."""

    def __init__(self, folder: Path) -> None:
        self.text = (folder / "mlperf_log_summary.txt").read_text()

    def value(self, name: str) -> str:
        found = re.search(rf"^{re.escape(name)}\s*:\s*(\S+)\s*$", self.text, re.MULTILINE)
        assert found is not None, f"{name} is not in the summary:\n{self.text}"
        return found[1]


def holds_to_the_digit(result: LoadResult, folder: Path) -> None:
    """Every figure of the section that LoadGen has, against the digits that it printed."""
    summary, section = Summary(folder), result.section
    named = {"min": "Min latency (ns)", "max": "Max latency (ns)", "mean": "Mean latency (ns)"}
    named |= {percentile_name(p): f"{p * 100:.2f} percentile latency (ns)" for p in PERCENTILES}
    justified = 0
    for key, name in named.items():
        quantity = section.latency[key]
        if quantity.status == "ok":
            assert round(quantity.require() * 1e9) == int(summary.value(name)), name
            justified += 1
        else:
            assert quantity.status == "unjustified"
    assert justified >= 5
    assert section.validity.valid == (summary.value("Result is") == "VALID")
    assert section.validity.source == "loadgen"
    rates = {
        ScenarioKind.SINGLE_STREAM: "QPS w/ loadgen overhead",
        ScenarioKind.SERVER: "Completed samples per second",
        ScenarioKind.OFFLINE: "Samples per second",
    }
    if section.scenario.kind in rates:
        assert section.throughput.require() == float(summary.value(rates[section.scenario.kind]))
    for p, text in re.findall(r"Early stopping (\d+)(?:\.\d)?th percentile estimate: (\d+)", summary.text):
        assert round(section.latency[f"early_stopping_p{p}"].require() * 1e9) == int(text)
    discarded = re.search(r"Would discard (\d+) highest", summary.text)
    if discarded:
        assert allowed_overlatency(section.queries, section.scenario.target_percentile) == int(discarded[1]) + 1


@pytest.mark.parametrize("kind", MLPERF)
def test_null_back_end_agrees_with_the_summary_to_the_digit(
    kind: ScenarioKind, null_session: Callable[[float], Session], tiny_model: LoadableModel, tmp_path: Path
) -> None:
    result = run_load(null_session(0.0002), tiny_model, scenario(kind), log_dir=tmp_path)
    assert not result.interrupted
    holds_to_the_digit(result, tmp_path)


@pytest.mark.parametrize("kind", MLPERF)
def test_a_real_model_agrees_with_the_summary_to_the_digit(kind: ScenarioKind, tmp_path: Path) -> None:
    batch = 4 if kind in (ScenarioKind.OFFLINE, ScenarioKind.MULTI_STREAM) else 1
    model = resolve("digits", batch_size=batch)
    session = get_backend("onnxruntime").load(model, BackendOptions(threads=1))
    try:
        result = run_load(session, model, scenario(kind, batch_size=batch, min_duration_s=0.1), log_dir=tmp_path)
    finally:
        session.close()
    holds_to_the_digit(result, tmp_path)
    assert result.samples.height == (result.section.samples if batch == 4 else result.section.queries)


def test_samples_are_loadgens_own_to_the_nanosecond(tmp_path: Path) -> None:
    timeline = run_loadgen(
        [lambda: time.sleep(0.0002)] * 16, scenario(ScenarioKind.SINGLE_STREAM), 2e5, log_dir=tmp_path
    )
    latencies = np.sort(timeline.sample_latencies_ns())
    assert latencies.size == timeline.loadgen["result_query_count"]
    assert latencies[0] == timeline.loadgen["result_min_latency_ns"]
    assert latencies[-1] == timeline.loadgen["result_max_latency_ns"]
    assert int(latencies.sum()) // latencies.size == timeline.loadgen["result_mean_latency_ns"]
    assert early_stopping_estimate(latencies, 0.9).value == timeline.loadgen["early_stopping_latency_ss"]
    assert timeline.noise.accepted + timeline.noise.rejected >= 1
    assert (timeline.sample < 16).all()
    assert (np.diff(timeline.scheduled_ns) > 0).all()


def test_offline_samples_of_a_batch_are_answered_together() -> None:
    plan = scenario(ScenarioKind.OFFLINE, batch_size=8, min_queries=100)
    timeline = run_loadgen([lambda: time.sleep(0.001)] * 4, plan, 1e6)
    per_moment = np.unique(timeline.completed_ns, return_counts=True)[1]
    # A batch is one call to LoadGen, which stamps it once.
    assert per_moment.max() == 8
    assert timeline.queries == 1


def test_server_queries_arrive_as_a_poisson_process_and_count_from_their_arrival() -> None:
    plan = scenario(ScenarioKind.SERVER, target_qps=400.0, target_latency_s=0.5, concurrency=1, min_duration_s=1.0)
    timeline = run_loadgen([lambda: time.sleep(0.002)] * 4, plan, 2e6)
    gaps = np.diff(timeline.scheduled_ns) / 1e9
    assert gaps.mean() == pytest.approx(1 / 400, rel=0.25)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.3)
    assert (timeline.send_lags_ns() >= 0).all()
    # One worker and 80 % load: queries queue, and the wait is in the latency.
    assert np.percentile(timeline.sample_latencies_ns(), 95) > 3e6


@pytest.mark.parametrize("kind", MLPERF)
def test_own_scheduler_and_loadgen_agree_on_what_they_measure(kind: ScenarioKind) -> None:
    calls = [lambda: time.sleep(0.002)] * 4
    batch = 2 if kind in (ScenarioKind.OFFLINE, ScenarioKind.MULTI_STREAM) else 1
    plan = scenario(kind, target_qps=200.0, target_latency_s=5.0, batch_size=batch, min_duration_s=0.15)
    timelines = run_loadgen(calls, plan, 2e6), run_mlperf(calls, plan, 2e6)
    calls_a_query = 2 if kind is ScenarioKind.MULTI_STREAM else 1
    for timeline in timelines:
        assert judge(timeline, plan).valid, judge(timeline, plan).reasons
        assert timeline.query_latencies_ns().min() >= calls_a_query * 2_000_000
        assert (timeline.send_lags_ns() >= 0).all()
        if kind is ScenarioKind.OFFLINE:
            assert timeline.queries == 1
            assert np.unique(timeline.completed_ns, return_counts=True)[1].max() == batch
        else:
            samples = np.unique(timeline.query, return_counts=True)[1]
            assert set(samples) == {4 if kind is ScenarioKind.MULTI_STREAM else 1}
            assert timeline.scheduled_ns.max() >= 0.149e9


@pytest.mark.parametrize("kind", MLPERF)
def test_a_failing_model_is_an_error_and_not_a_crash(kind: ScenarioKind) -> None:
    served = []

    def call() -> None:
        served.append(1)
        if len(served) > 5:
            raise MeasurementError("the model broke")
        time.sleep(0.001)

    plan = scenario(kind, target_qps=200.0, target_latency_s=0.1, min_duration_s=1.0)
    with pytest.raises(MeasurementError, match="the model broke"):
        run_loadgen([call] * 4, plan, 1e6)


@pytest.mark.parametrize("kind", MLPERF)
def test_ctrl_c_keeps_the_samples_that_were_served(kind: ScenarioKind) -> None:
    served = []

    def call() -> None:
        time.sleep(0.002)
        served.append(1)

    def interrupt() -> None:
        while len(served) < 20:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    plan = scenario(kind, target_qps=200.0, target_latency_s=0.1, min_duration_s=20.0)
    timeline = run_loadgen([call] * 4, plan, 2e6)
    assert timeline.interrupted
    assert timeline.duration_s() < plan.min_duration_s
    assert timeline.query.size == len(served)
    assert timeline.loadgen == {}
    assert (timeline.completed_ns - timeline.issued_ns >= 2_000_000).all()


def test_ctrl_c_in_a_process_of_its_own_ends_it_cleanly() -> None:
    program = textwrap.dedent(
        """
        import os, time
        from stratoscope.measure.loadgen import run_loadgen
        from stratoscope.spec.scenario import ScenarioManifest
        def call():
            os.write(1, b"serving\\n")  # whole: several threads serve
            time.sleep(0.005)
        plan = ScenarioManifest(kind="server", min_duration_s=60, target_qps=100.0, target_latency_s=1.0)
        timeline = run_loadgen([call] * 4, plan, 5e6)
        print("kept", timeline.queries, timeline.interrupted, flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(5):
            assert child.stdout.readline() == b"serving\n"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert child.returncode == 0, err.decode()
    assert re.search(rb"kept [1-9]\d* True", out)


def test_what_loadgen_cannot_hold_is_refused_before_it_starts() -> None:
    with pytest.raises(MeasurementError, match=r"more than the 2e\+06"):
        run_loadgen([lambda: None], scenario(ScenarioKind.SINGLE_STREAM, min_duration_s=600), 1000.0)
    with pytest.raises(MeasurementError, match="lower min_duration_s"):
        run_loadgen([lambda: None], scenario(ScenarioKind.OFFLINE, min_duration_s=600), 1000.0)
    with pytest.raises(MeasurementError, match="no scenario of MLPerf"):
        run_loadgen([lambda: None], scenario(ScenarioKind.REPLAY), 1000.0)
    with pytest.raises(MeasurementError, match="needs target_qps"):
        run_loadgen([lambda: None], scenario(ScenarioKind.SERVER), 1000.0)


def test_without_loadgen_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "loadgen_missing", lambda: "no wheel here")
    with pytest.raises(MeasurementError, match="no wheel here"):
        run_loadgen([lambda: None], scenario(ScenarioKind.SINGLE_STREAM), 1000.0)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(MeasurementError, match="cannot keep LoadGen's files"):
        run_loadgen([lambda: None], scenario(ScenarioKind.SINGLE_STREAM), 1000.0, log_dir=file / "below")


def test_logs_that_are_not_whole_are_errors(tmp_path: Path) -> None:
    plan = scenario(ScenarioKind.SINGLE_STREAM, min_duration_s=0.02)
    timeline = run_loadgen([lambda: time.sleep(0.0005)] * 4, plan, 5e5, log_dir=tmp_path)
    check_whole(tmp_path, timeline.queries, timeline.loadgen)
    trace = tmp_path / "mlperf_log_trace.json"
    trace.write_bytes(trace.read_bytes()[: trace.stat().st_size // 2])
    with pytest.raises(MeasurementError, match="is the disk full"):
        check_whole(tmp_path, read_samples(tmp_path)[0].size, timeline.loadgen)
    trace.write_text("")
    assert all(column.size == 0 for column in read_samples(tmp_path))
    trace.unlink()
    with pytest.raises(MeasurementError, match="cannot read LoadGen's trace"):
        read_samples(tmp_path)
    (tmp_path / "mlperf_log_detail.txt").write_text(':::MLLOG {"key": "sut_name", "value": "x"}\n:::MLLOG {broken\n')
    with pytest.raises(MeasurementError, match="left no result"):
        read_detail(tmp_path)
    (tmp_path / "mlperf_log_summary.txt").unlink()
    with pytest.raises(MeasurementError, match="cannot read LoadGen's log"):
        read_summary(tmp_path)


def test_the_same_load_on_nothing_convicts_a_slow_client_and_acquits_a_quick_one() -> None:
    plan = scenario(ScenarioKind.SINGLE_STREAM, min_duration_s=0.1)
    null = run_loadgen([lambda: None] * 4, null_scenario(plan), 2000.0)
    slow_model = run_loadgen([lambda: time.sleep(0.005)] * 4, plan, 5e6)
    assert judge_client(slow_model, null, plan).bottleneck is False
    fast_model = run_loadgen([lambda: None] * 4, plan, 2000.0)
    convicted = judge_client(fast_model, null, plan)
    assert convicted.bottleneck is True
    assert "more than 5%" in convicted.reason
    assert convicted.send_lag_p99_s.status == "unavailable"


@pytest.mark.parametrize("step", ["start", "mark", "stop"])
def test_a_failure_of_our_own_in_a_callback_is_an_error_and_not_a_crash(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MeasurementError("the counters are gone")

    monkeypatch.setattr(loadgen.NoiseBlocks, step, fail)
    plan = scenario(ScenarioKind.SINGLE_STREAM, min_duration_s=0.2)
    with pytest.raises(MeasurementError, match="the counters are gone"):
        run_loadgen([lambda: time.sleep(0.001)] * 4, plan, 1e6)


def test_no_thread_that_called_loadgen_ends() -> None:
    plan = scenario(ScenarioKind.SERVER, target_qps=200.0, target_latency_s=0.5, concurrency=2, min_duration_s=0.1)
    callers: list[set[threading.Thread]] = []
    for _ in range(2):
        seen: set[threading.Thread] = set()

        def call(seen: set[threading.Thread] = seen) -> None:
            seen.add(threading.current_thread())
            time.sleep(0.001)

        run_loadgen([call] * 4, plan, 1e6)
        callers.append(seen)
    assert all(thread.is_alive() for seen in callers for thread in seen)
    assert len(callers[0] | callers[1]) <= 3  # two workers and the issuing thread are used again

"""Every probe: it says why it cannot run, its cases are well-formed and fit the machine, and a repeat takes time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratoscope.measure.machine import file_reads
from stratoscope.measure.machine.bandwidth import ARRAYS, StreamProbe
from stratoscope.measure.machine.chase import ChaseProbe
from stratoscope.measure.machine.compiled import Kernels
from stratoscope.measure.machine.faults import FaultProbe
from stratoscope.measure.machine.file_reads import FileProbe, resident_share
from stratoscope.measure.machine.forkjoin import DispatchProbe, ForkJoinProbe
from stratoscope.measure.machine.gemm import GemmProbe
from stratoscope.measure.machine.gpu import GpuProbe
from stratoscope.measure.machine.library_cases import CannotRun, check_product, operands
from stratoscope.measure.machine.probe import Case, ProbeUnavailable, Repeat, Setting
from stratoscope.measure.machine.registry import PROBES, select_probes
from stratoscope.measure.machine.timing import longest_wait, minus_empty
from stratoscope.measure.machine.transports import KINDS, TransportProbe
from stratoscope.measure.machine.workers import Worker, worker_case

MIB = 1 << 20
FIRST_CPU = (min(os.sched_getaffinity(0)),)


def cases_of(probe: Any, setting: Setting) -> list[Case]:
    return [] if probe.check(setting) is not None else list(probe.register(setting))


def repeat(probe: Any, case: Case, setting: Setting, iterations: int = 1) -> Repeat:
    with probe.run(case, setting) as prepared:
        found: Repeat = prepared.operate(case.fixed_iterations or iterations)
    return found


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("memory", [8 << 30, 128 * MIB, 8 * MIB])
def test_names_are_unique_and_cases_hold_no_more_than_they_may(
    make_setting: Any, kernels: Kernels, full: bool, memory: int
) -> None:
    setting = make_setting(memory_bytes=memory, kernels=kernels, full=full)
    cases = [case for probe in PROBES for case in cases_of(probe, setting)]
    names = [case.name for case in cases]
    assert len(names) == len(set(names))
    for case in cases:
        assert case.memory_bytes <= memory
        assert int(case.parameters.get("bytes", 0)) <= memory
        assert case.unit in {"byte/s", "FLOP/s", "s"}
        assert (case.unit == "byte/s") <= (case.bytes is not None)
        assert (case.unit == "FLOP/s") <= (case.flops is not None)
    assert names, "something can be measured on any machine"


def test_one_cpu_has_no_figures_for_several_threads(make_setting: Any, kernels: Kernels) -> None:
    setting = make_setting(cpus=(0,), kernels=kernels, full=True)
    assert setting.thread_counts == (1,)
    for probe in PROBES:
        assert all(case.parameters.get("threads", 1) == 1 for case in cases_of(probe, setting))


def test_thread_counts_of_the_full_set_are_powers_of_two_and_all(make_setting: Any) -> None:
    assert make_setting(cpus=tuple(range(12)), full=True).thread_counts == (1, 2, 4, 8, 12)
    assert make_setting(cpus=tuple(range(12))).thread_counts == (1, 12)


def test_an_unknown_probe_is_named_with_the_nearest() -> None:
    chosen, lines = select_probes(["gem", "chase", "xyzzy", "chase"])
    assert [probe.name for probe in chosen] == ["chase"]
    assert lines["gem"] == "no probe is called 'gem': did you mean gemm?"
    assert "there are stream, sweep" in lines["xyzzy"]


def test_each_visit_of_a_cache_lies_elsewhere_and_memory_stays(make_setting: Any, kernels: Kernels) -> None:
    cases = list(StreamProbe().register(make_setting(kernels=kernels)))
    assert {case.reopens for case in cases if case.parameters["level"] != "memory"} == {True}
    assert {case.reopens for case in cases if case.parameters["level"] == "memory"} == {False}


def test_streams_bytes_are_those_of_its_definition(make_setting: Any, kernels: Kernels) -> None:
    cases = list(StreamProbe().register(make_setting(kernels=kernels)))
    memory = {c.family: c for c in cases if c.parameters["level"] == "memory" and c.parameters["threads"] == 1}
    elements = 4 * 32 * MIB // 8
    for kernel, arrays in ARRAYS.items():
        assert memory[f"stream/{kernel}"].bytes == 8 * elements * arrays
    assert not any(case.note for case in cases)


def test_small_arrays_are_noted_as_below_streams_rule(make_setting: Any, kernels: Kernels) -> None:
    cases = StreamProbe().register(make_setting(memory_bytes=300 * MIB, kernels=kernels))
    memory = [case for case in cases if case.parameters["level"] == "memory"]
    assert memory
    assert all("STREAM's rule" in case.note for case in memory)


@pytest.mark.parametrize("method", ["c", "c-nt", "numpy"])
def test_bandwidth_by_each_method(make_setting: Any, kernels: Kernels, method: str) -> None:
    setting = make_setting(cpus=FIRST_CPU, memory_bytes=64 * MIB, kernels=kernels, caches=make_setting().caches[:3])
    cases = [case for case in StreamProbe().register(setting) if case.parameters["method"] == method]
    assert cases or not kernels.has_streaming_stores
    for case in cases:
        assert repeat(StreamProbe(), case, setting, 4).wall_ns > 0


def test_without_a_compiler_numpy_measures_threads_too(make_setting: Any) -> None:
    setting = make_setting(memory_bytes=64 * MIB, caches=make_setting().caches[:3])
    cases = list(StreamProbe().register(setting))
    assert {case.parameters["method"] for case in cases} == {"numpy"}
    threaded = [case for case in cases if case.parameters["threads"] == 2]
    assert threaded
    assert repeat(StreamProbe(), threaded[0], setting).wall_ns > 0
    assert ChaseProbe().check(setting) == "no C compiler on the PATH (cc, gcc or clang)"


def test_an_empty_loop_is_subtracted_but_never_below_a_tenth() -> None:
    work = np.ones(20_000)
    whole = minus_empty(lambda: work.sum(), lambda: None)(100)
    assert whole.wall_ns > 0
    same = minus_empty(lambda: None, lambda: None)(10_000)
    assert same.wall_ns > 0


def test_the_longest_wait_is_that_of_one_thread() -> None:
    assert longest_wait({"1": 5, "2": 7}, {"1": 6, "2": 17, "3": 4}) == 10
    assert longest_wait(None, {"1": 6}) is None


def test_page_faults_take_time_and_are_counted(make_setting: Any) -> None:
    small = next(iter(FaultProbe().register(make_setting())))
    assert repeat(FaultProbe(), small, make_setting()).wall_ns > 0


@pytest.mark.parametrize("kind", ["pthread", "python-thread", "process"])
def test_starting_threads_and_processes(make_setting: Any, kernels: Kernels, kind: str) -> None:
    setting = make_setting(kernels=kernels)
    case = next(case for case in ForkJoinProbe().register(setting) if case.family == f"forkjoin/{kind}")
    assert repeat(ForkJoinProbe(), case, setting, 3).wall_ns > 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_transport_delivers_messages(make_setting: Any, kind: str) -> None:
    setting = make_setting()
    for case in TransportProbe().register(setting):
        if case.family.endswith(f"/{kind}") and int(case.parameters.get("bytes", 1)) <= MIB:
            assert repeat(TransportProbe(), case, setting, 9).wall_ns > 0


def test_a_cold_read_finds_nothing_in_the_page_cache() -> None:
    with tempfile.NamedTemporaryFile(dir=Path(__file__).parent) as file:  # not in /tmp, which may lie in memory
        file.write(bytes(8 * MIB))
        file.flush()
        os.fsync(file.fileno())
        assert resident_share(file.fileno(), 8 * MIB) == 1.0
        file_reads._evict(file.fileno(), 8 * MIB)
        assert resident_share(file.fileno(), 8 * MIB) <= file_reads.MOST_RESIDENT


def test_on_a_file_system_in_memory_there_is_no_cold_read() -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(MIB))
        file.flush()
        with pytest.raises(ProbeUnavailable, match="keeps the file in memory"):
            file_reads._evict(file.fileno(), MIB)


def test_reading_a_file(make_setting: Any) -> None:
    setting = make_setting(memory_bytes=16 * MIB)
    warm = next(case for case in FileProbe().register(setting) if case.parameters["state"] == "warm")
    assert repeat(FileProbe(), warm, setting).wall_ns > 0


def test_a_folder_that_is_not_there_is_told(make_setting: Any, tmp_path: Path) -> None:
    import dataclasses

    setting = dataclasses.replace(make_setting(), folder=tmp_path / "missing")
    assert "cannot be written" in (FileProbe().check(setting) or "")


def test_without_a_driver_there_is_no_gpu(make_setting: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GpuProbe().check(make_setting()) == "no nvidia-smi on the PATH: no NVIDIA GPU, or no driver"


@pytest.mark.parametrize(("library", "dtype"), [("numpy", "fp32"), ("numpy", "fp64"), ("onnxruntime", "int8")])
def test_a_product_is_checked_and_timed_in_a_worker(make_setting: Any, library: str, dtype: str) -> None:
    setting = make_setting()
    with worker_case(setting.workers, library, 1, {"kind": "mm", "dtype": dtype, "n": 64}) as prepared:
        took = prepared.operate(3)
    assert took.wall_ns > 0
    assert took.cpu_ns > 0
    assert prepared.note


def test_what_a_library_cannot_do_is_told_and_the_worker_goes_on(make_setting: Any) -> None:
    pool = make_setting().workers
    with (
        pytest.raises(ProbeUnavailable, match="no fast bf16"),
        worker_case(pool, "numpy", 1, {"kind": "mm", "dtype": "bf16", "n": 8}),
    ):
        pass
    with worker_case(pool, "numpy", 1, {"kind": "mm", "dtype": "fp32", "n": 8}) as prepared:
        assert prepared.operate(1).wall_ns > 0


def test_a_worker_that_dies_is_told_and_replaced(make_setting: Any) -> None:
    pool = make_setting().workers
    pool.get("numpy", 1)._process.kill()
    pool.get("numpy", 1)._process.wait()
    case = {"kind": "mm", "dtype": "fp32", "n": 8}
    with pytest.raises(ProbeUnavailable, match=r"ended \(-9\)"), worker_case(pool, "numpy", 1, case):
        pass
    with worker_case(pool, "numpy", 1, case) as prepared:
        assert prepared.operate(1).wall_ns > 0


def test_a_worker_that_does_not_answer_is_ended() -> None:
    with Worker("numpy", 1, timeout_s=0.0) as worker:
        with pytest.raises(ProbeUnavailable, match="did not answer in 0 s"):
            worker.ask(do="open", case={"kind": "mm", "dtype": "fp32", "n": 8})
        assert not worker.alive


def test_a_wrong_product_is_found() -> None:
    a, b = operands("fp32", 32)
    right = a[:4] @ b
    check_product(a, b, right, "fp32")
    wrong = right.copy()
    wrong[2, 3] += 0.01
    with pytest.raises(CannotRun, match="product is wrong"):
        check_product(a, b, wrong, "fp32")
    with pytest.raises(CannotRun, match="product is wrong"):
        check_product(a, b, np.full_like(right, np.nan), "fp32")


def test_libraries_that_do_not_fit_are_left_out_with_the_reason(make_setting: Any) -> None:
    setting = make_setting(memory_bytes=256 * MIB)
    assert GemmProbe().check(setting) is None
    case = next(c for c in DispatchProbe().register(setting) if c.family == "dispatch/onnxruntime")
    # Two workers (one and two threads) of NumPy with 64 MiB each and of ONNX Runtime with 160.
    with (
        pytest.raises(ProbeUnavailable, match="take about 448 MiB; they may use 128"),
        DispatchProbe().run(case, setting),
    ):
        pass
    assert "they may use 64" in (GemmProbe().check(make_setting(memory_bytes=128 * MIB)) or "")


def test_two_gpus_have_cases_each_and_collectives_over_nccl(make_setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from stratoscope.measure.machine import collectives, gpu

    monkeypatch.setattr(gpu, "device_count", lambda setting: (2, None))
    monkeypatch.setattr(collectives, "device_count", lambda setting: (2, None))
    setting = make_setting()
    cases = cases_of(GpuProbe(), setting)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.parameters["device"] for case in cases} == {0, 1}
    assert {case.parameters["to"] for case in cases if case.family == "gpu/peer"} == {1}
    duplex = next(case for case in cases if case.family == "gpu/duplex-pinned")
    assert duplex.bytes == 2 * int(duplex.parameters["size"])
    nccl = [case for case in collectives.CollectiveProbe().register(setting) if case.parameters["backend"] == "nccl"]
    assert {case.family for case in nccl} == {f"collective/{name}" for name in collectives.OPERATIONS}

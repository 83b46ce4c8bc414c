"""Facts about noise readings: they belong to a thread, they say what is missing and why, and differences are exact."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from stratoscope.errors import MeasurementError
from stratoscope.host.counters import MachineCounters, read_counters
from stratoscope.host.files import KernelFiles
from stratoscope.host.noise import NoiseSnapshot, ThreadNoise, noise_record, observe


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def counters(**changes: object) -> MachineCounters:
    values: dict[str, object] = {
        "busy_s": 100.0,
        "steal_s": 1.0,
        "own_cpu_s": 10.0,
        "load_average": 0.5,
        "throttled": 3,
        "throttle_sources": ("cgroup nr_throttled",),
    }
    return MachineCounters(**(values | changes))  # type: ignore[arg-type]


def test_a_busy_thread_is_charged_its_cpu_time_and_time_never_runs_backwards():
    with ThreadNoise() as noise:
        before = noise.snapshot()
        burn(0.02)
        after = noise.snapshot()
    assert after.cpu_ns - before.cpu_ns >= 20_000_000
    assert after.wall_ns > before.wall_ns
    assert after.voluntary >= before.voluntary
    assert after.involuntary >= before.involuntary


def test_a_sleeping_thread_is_charged_wall_time_and_a_voluntary_switch_but_no_cpu():
    with ThreadNoise() as noise:
        before = noise.snapshot()
        time.sleep(0.05)
        after = noise.snapshot()
    assert after.wall_ns - before.wall_ns >= 50_000_000
    assert after.cpu_ns - before.cpu_ns < 50_000_000
    assert after.voluntary > before.voluntary


def test_another_threads_work_is_not_charged_to_this_one():
    with ThreadNoise() as noise:
        before = noise.snapshot()
        worker = threading.Thread(target=burn, args=(0.1,))
        worker.start()
        worker.join()
        after = noise.snapshot()
    assert after.cpu_ns - before.cpu_ns < 100_000_000


def test_only_the_opening_thread_may_read_and_a_closed_one_says_so():
    noise = ThreadNoise()
    caught: list[Exception] = []

    def read() -> None:
        try:
            noise.snapshot()
        except MeasurementError as error:
            caught.append(error)

    worker = threading.Thread(target=read)
    worker.start()
    worker.join()
    assert "another thread" in str(caught[0])
    noise.close()
    noise.close()
    with pytest.raises(MeasurementError, match="closed"):
        noise.snapshot()


def test_a_missing_schedstat_gives_no_wait_and_the_reason(tmp_path: Path):
    with ThreadNoise(str(tmp_path / "absent")) as noise:
        assert noise.snapshot().wait_ns is None
        assert "No such file" in str(noise.reason)


def test_a_kernel_that_counts_nothing_is_unavailable_and_not_zero(tmp_path: Path):
    (tmp_path / "schedstat").write_text("0 0 0\n")
    with ThreadNoise(str(tmp_path / "schedstat")) as noise:
        assert noise.snapshot().wait_ns is None
        assert "0 0 0" in str(noise.reason)


def test_the_wait_is_the_second_field_of_schedstat(tmp_path: Path):
    (tmp_path / "schedstat").write_text("123456789 987654 42\n")
    with ThreadNoise(str(tmp_path / "schedstat")) as noise:
        assert noise.snapshot().wait_ns == 987654


def test_an_observation_covers_the_block_and_cannot_be_read_before_it_ends():
    with observe() as observation:
        burn(0.02)
        with pytest.raises(MeasurementError, match="not ended"):
            observation.record()
    record = observation.record(accepted=5, rejected=2, quiet=False, reason="busy neighbours")
    assert record.thread_cpu_s.require() >= 0.02
    assert record.wall_s.require() > 0
    assert (record.accepted, record.rejected, record.quiet, record.reason) == (5, 2, False, "busy neighbours")


def test_an_observation_is_readable_after_an_exception():
    observation = observe()
    with pytest.raises(KeyError), observation:
        raise KeyError("interrupted")
    assert observation.record().wall_s.status == "ok"


def test_differences_are_exact():
    before = (counters(), NoiseSnapshot(1_000_000_000, 500_000_000, 70_000_000, 4, 2))
    after = (
        counters(busy_s=110.0, steal_s=1.25, own_cpu_s=16.0, load_average=3.0, throttled=8),
        NoiseSnapshot(3_500_000_000, 1_500_000_000, 320_000_000, 9, 13),
    )
    record = noise_record(before, after)
    assert record.wall_s.value == 2.5
    assert record.thread_cpu_s.value == 1.0
    assert record.run_queue_wait_s.value == 0.25
    assert record.involuntary_switches.value == 11
    assert record.steal_s.value == 0.25
    assert record.load_average.value == 0.5  # before the measurement added its own load
    assert record.throttled.value == 5
    assert record.foreign_cpu_s is not None
    assert record.foreign_cpu_s.value == 4.0  # ten seconds of busy CPUs, six of them ours


def test_foreign_cpu_is_never_negative():
    thread = NoiseSnapshot(0, 0, 0, 0, 0)
    record = noise_record((counters(), thread), (counters(busy_s=101.0, own_cpu_s=11.02), thread))
    assert record.foreign_cpu_s is not None
    assert record.foreign_cpu_s.value == 0.0


def test_what_the_machine_does_not_tell_is_unavailable_with_a_reason():
    blind = MachineCounters(None, None, 0.0, None, None, (), {"steal_s": "no steal here", "throttled": "no cgroup"})
    thread = NoiseSnapshot(0, 0, None, 0, 0)
    record = noise_record((blind, thread), (blind, thread), "schedstat is absent")
    assert record.run_queue_wait_s.reason == "schedstat is absent"
    assert record.steal_s.reason == "no steal here"
    assert record.throttled.reason == "no cgroup"
    unavailable = (record.run_queue_wait_s, record.steal_s, record.throttled, record.load_average, record.foreign_cpu_s)
    assert all(quantity is not None and quantity.status == "unavailable" for quantity in unavailable)


def test_a_counter_that_goes_backwards_is_unavailable():
    thread = NoiseSnapshot(0, 0, 0, 0, 0)
    record = noise_record((counters(), thread), (counters(steal_s=0.5), thread))
    assert record.steal_s.status == "unavailable"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_busy_time_leaves_out_idle_and_iowait_and_guest_which_is_in_user(tmp_path: Path):
    write(tmp_path, "proc/stat", "cpu  1000 200 300 99999 8888 10 20 50 700 80\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    reading = read_counters(KernelFiles(tmp_path))
    assert reading.busy_s == pytest.approx(15.3)  # (1000 + 200 + 300 + 10 + 20) ticks of 10 ms
    assert reading.steal_s == pytest.approx(0.5)
    assert set(reading.reasons) == {"load_average", "throttled"}


def test_version_1_quota_events_are_summed_from_the_own_cgroup_to_the_mount(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "4:memory:/other\n3:cpu,cpuacct:/slice/job\n0::/\n")
    write(
        tmp_path,
        "proc/self/mountinfo",
        "32 31 0:29 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw\n",
    )
    write(tmp_path, "cg/unified/cpu.stat", "usage_usec 1\nnr_throttled 1000\n")
    write(tmp_path, "cg/cpu/cpu.stat", "nr_periods 9\nnr_throttled 1\n")
    write(tmp_path, "cg/cpu/slice/cpu.stat", "nr_throttled 20\n")
    write(tmp_path, "cg/cpu/slice/job/cpu.stat", "nr_throttled 300\n")
    reading = read_counters(KernelFiles(tmp_path))
    assert (reading.throttled, reading.throttle_sources) == (321, ("cgroup nr_throttled",))


def test_version_2_root_without_quota_counters_is_unavailable(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    write(tmp_path, "proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    write(tmp_path, "sys/fs/cgroup/cpu.stat", "usage_usec 139955443\n")
    assert read_counters(KernelFiles(tmp_path)).throttled is None


def test_a_container_sees_its_own_cgroup_at_the_mount_point(tmp_path: Path):
    write(tmp_path, "proc/self/cgroup", "2:cpu:/docker/abc\n")
    write(tmp_path, "proc/self/mountinfo", "32 31 0:29 /docker/abc /cg rw - cgroup cgroup rw,cpu\n")
    write(tmp_path, "cg/cpu.stat", "nr_throttled 7\n")
    assert read_counters(KernelFiles(tmp_path)).throttled == 7


def test_thermal_events_count_once_for_the_threads_of_one_core(tmp_path: Path):
    for cpu, siblings, events in ((0, "0,2", 5), (2, "0,2", 5), (1, "1,3", 1), (3, "1,3", 1)):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        write(tmp_path, f"{folder}/thermal_throttle/core_throttle_count", f"{events}\n")
        write(tmp_path, f"{folder}/topology/thread_siblings_list", f"{siblings}\n")
    reading = read_counters(KernelFiles(tmp_path))
    assert (reading.throttled, reading.throttle_sources) == (6, ("thermal core_throttle_count",))


def test_an_observation_tells_clock_temperature_and_power_or_why_not() -> None:
    with observe() as observation:
        pass
    record = observation.record()
    for value in (record.cpu_clock, record.temperature, record.power):
        assert value is not None
        assert (value.value is not None and value.value > 0) or value.reason

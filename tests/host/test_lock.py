"""Facts about the measurement lock: one owner, named to the others, gone when its owner dies, hard to misuse."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stratoscope.errors import MeasurementError
from stratoscope.host.lock import lock_path, measurement_lock

HOLDER = """
import sys, time
from stratoscope.host.lock import measurement_lock
with measurement_lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "measure.lock"
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(path))
    return path


@pytest.fixture
def holder():
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()


def test_a_busy_machine_is_refused_with_the_owners_pid_and_the_way_out(holder):
    with pytest.raises(MeasurementError) as caught, measurement_lock(wait=False):
        pass
    assert f"pid {holder.pid}" in caught.value.message
    assert "STRATOSCOPE_LOCK" in str(caught.value.hint)


def test_a_killed_owner_leaves_no_lock_behind(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with measurement_lock(wait=False):
        pass


def test_waiting_ends_when_the_owner_does_and_says_once_for_whom_it_waits(holder):
    told: list[str] = []

    def on_wait(message: str) -> None:
        told.append(message)
        holder.stdin.write("go\n")

    with measurement_lock(on_wait=on_wait):
        pass
    assert len(told) == 1
    assert f"pid {holder.pid}" in told[0]


def test_waiting_has_a_limit(holder):
    with pytest.raises(MeasurementError, match="did not end in time"), measurement_lock(timeout_s=0.05):
        pass


def test_the_holding_thread_enters_again_and_the_lock_goes_with_the_outermost_block(lock_file: Path):
    with measurement_lock():
        with measurement_lock(wait=False):
            pass
        assert f"pid {os.getpid()}" in lock_file.read_text()
        result = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True)
        assert result.stdout == "busy\n"
    result = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True)
    assert result.stdout == "free\n"
    assert lock_file.read_text() == ""


ATTEMPT = """
from stratoscope.errors import MeasurementError
from stratoscope.host.lock import measurement_lock
try:
    with measurement_lock(wait=False):
        print("free")
except MeasurementError:
    print("busy")
"""


def test_another_thread_of_the_process_is_another_measurement():
    outcome: list[str] = []

    def attempt() -> None:
        try:
            with measurement_lock(wait=False):
                outcome.append("free")
        except MeasurementError:
            outcome.append("busy")

    with measurement_lock():
        worker = threading.Thread(target=attempt)
        worker.start()
        worker.join()
    attempt()
    assert outcome == ["busy", "free"]


def test_an_exception_inside_releases_the_lock():
    with pytest.raises(KeyError), measurement_lock():
        raise KeyError("inside")
    with measurement_lock(wait=False):
        pass


def test_a_forked_child_that_unwinds_does_not_release_its_parents_lock():
    context = measurement_lock()
    context.__enter__()
    child = os.fork()
    if child == 0:
        context.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    result = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True)
    context.__exit__(None, None, None)
    assert result.stdout == "busy\n"


def test_the_file_is_open_to_all_users_whatever_the_umask(lock_file: Path):
    old = os.umask(0o077)
    try:
        with measurement_lock():
            assert stat.S_IMODE(lock_file.stat().st_mode) == 0o666
    finally:
        os.umask(old)


def test_a_symbolic_link_is_refused_and_its_target_untouched(lock_file: Path, tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("keep me")
    lock_file.symlink_to(target)
    with pytest.raises(MeasurementError, match="symbolic link"), measurement_lock():
        pass
    assert target.read_text() == "keep me"


def test_a_special_file_or_a_missing_folder_is_refused_by_name(
    lock_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(lock_file)
    with pytest.raises(MeasurementError, match="not a regular file"), measurement_lock():
        pass
    monkeypatch.setenv("STRATOSCOPE_LOCK", str(tmp_path / "absent" / "lock"))
    with pytest.raises(MeasurementError, match="absent/lock"), measurement_lock():
        pass


def test_an_owners_note_cannot_play_tricks_on_the_terminal(holder, lock_file: Path):
    lock_file.write_text("pid 1: \x1b[2Jcleared")
    with pytest.raises(MeasurementError) as caught, measurement_lock(wait=False):
        pass
    assert "\x1b" not in str(caught.value)


def test_without_the_variable_the_lock_lies_in_a_place_that_all_users_share(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("STRATOSCOPE_LOCK")
    assert lock_path().parent in (Path("/run/lock"), Path("/tmp"))
    assert lock_path().parent.stat().st_mode & stat.S_IWOTH

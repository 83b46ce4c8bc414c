"""The server: one load however many ask, leases that end with their process, and memory that nobody can change."""

from __future__ import annotations

import http.server
import mmap
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratoscope.backends.onnxruntime import OnnxRuntimeBackend
from stratoscope.share.arrays import SharedArrays
from stratoscope.share.client import ask_server, request_lease
from stratoscope.share.errors import BudgetError, IntegrityError, ShareError
from stratoscope.share.lease import Lease
from stratoscope.share.library import Library
from stratoscope.share.manager import ManagerSettings
from stratoscope.share.memory import descriptor_count, mapping_count
from stratoscope.share.opening import attach, open_arrays
from stratoscope.share.prepare import prepare
from stratoscope.share.protocol import socket_path
from stratoscope.share.remote import copy_to, fetch
from stratoscope.share.server import Server
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions

Chain = Callable[..., LoadableModel]
LARGE = ManagerSettings(memory_bytes=1 << 30, file_bytes=1 << 30)
MODEL_BYTES = 3 * 256 * 256 * 4


@contextmanager
def serving(library: Library, settings: ManagerSettings = LARGE, **extra: Any) -> Iterator[Server]:
    with Server(library, settings, **extra) as server:
        server.start()
        yield server


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether `condition` holds within ten seconds: other threads need a moment."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def leases(server: Server) -> int:
    return sum(model["leases"] for model in server.manager.status()["models"])


def lease_of(library: Library, key: str) -> Lease:
    lease = request_lease(library, key)
    assert lease is not None
    return lease


def test_a_session_runs_from_sealed_memory(chain: Chain, library: Library) -> None:
    model = chain()
    feeds = {"x": np.ones((3, 256), np.float32)}
    default = OnnxRuntimeBackend().load(model, BackendOptions(threads=1)).run(feeds)[0]
    with serving(library) as server:
        session = OnnxRuntimeBackend().load(model, BackendOptions(threads=1, shared=True))
        assert session.effective_options["shared"]["tier"] == "memory"
        np.testing.assert_allclose(session.run(feeds)[0], default, rtol=1e-4, atol=1e-5)
        assert leases(server) == 1
        session.close()
        assert eventually(lambda: leases(server) == 0)


def test_sixteen_clients_at_once_load_a_cold_model_once(chain: Chain, library: Library) -> None:
    key = prepare(chain(), kind="weights").key
    barrier, got = threading.Barrier(16), []

    def client() -> None:
        barrier.wait()
        got.append(lease_of(library, key))

    with serving(library) as server:
        threads = [threading.Thread(target=client) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 16
        assert server.manager.loads == 1
        assert leases(server) == 16
        inodes = {os.fstat(lease.descriptors["weights.bin"]).st_ino for lease in got}
        assert len(inodes) == 1
        for lease in got:
            lease.close()


def test_sealed_memory_refuses_every_way_to_write(chain: Chain, library: Library) -> None:
    key = prepare(chain(), kind="weights").key
    with serving(library):
        lease, other = lease_of(library, key), lease_of(library, key)
        descriptor = lease.descriptors["weights.bin"]
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        before = os.pread(other.descriptors["weights.bin"], 64, 0)
        private = mmap.mmap(descriptor, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        private[:5] = b"other"  # a copy of this process's own
        assert os.pread(other.descriptors["weights.bin"], 64, 0) == before
        lease.close()
        other.close()


@pytest.mark.slow
def test_the_death_of_a_client_frees_its_lease(chain: Chain, library: Library) -> None:
    model = chain()
    prepare(model, kind="weights")
    code = (
        "import sys, time; from stratoscope.share.opening import attach;"
        "held = attach(sys.argv[1]); print(held.tier, flush=True); time.sleep(600)"
    )
    with serving(library) as server:
        client = subprocess.Popen([sys.executable, "-c", code, str(model.path)], stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        assert client.stdout.readline().strip() == "memory"
        assert leases(server) == 1
        client.send_signal(signal.SIGKILL)
        client.wait()
        assert eventually(lambda: leases(server) == 0)
        client.stdout.close()


@pytest.mark.slow
def test_clients_outlive_a_killed_server_and_a_new_one_starts_clean(chain: Chain, library: Library) -> None:
    model = chain()
    key = prepare(model, kind="weights").key
    code = (
        "from stratoscope.share.library import Library; from stratoscope.share.manager import ManagerSettings;"
        "from stratoscope.share.server import Server; s = Server(Library.open(), ManagerSettings(1<<30, 1<<30));"
        "print('ready', flush=True); s.serve()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    held = attach(model)
    assert held.tier == "memory"
    expected = held["w1"].copy()
    with pytest.raises(ShareError, match="runs for"):
        Server(library, LARGE)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    np.testing.assert_array_equal(held["w1"], expected)
    assert attach(model).tier == "file"  # nobody serves: the file is mapped
    with serving(library) as server:
        assert server.manager.status()["models"] == []
        assert lease_of(library, key).tier == "memory"
    held.close()


def test_a_model_larger_than_the_budget_is_a_clear_error_and_others_go_on(chain: Chain, library: Library) -> None:
    small, large = chain("small", layers=3), chain("large", layers=6)
    keys = [prepare(model, kind="weights").key for model in (small, large)]
    with serving(library, ManagerSettings(memory_bytes=MODEL_BYTES, file_bytes=0)) as server:
        lease = lease_of(library, keys[0])
        with pytest.raises(BudgetError, match="--memory-budget"):
            request_lease(library, keys[1])
        assert leases(server) == 1
        assert lease_of(library, keys[0]).tier == "memory"
        lease.close()


def test_what_is_in_use_never_makes_room(chain: Chain, library: Library) -> None:
    keys = [prepare(chain(f"m{n}", seed=n), kind="weights").key for n in range(3)]
    with serving(library, ManagerSettings(memory_bytes=2 * MODEL_BYTES, file_bytes=0)) as server:
        first, second = lease_of(library, keys[0]), lease_of(library, keys[1])
        with pytest.raises(BudgetError, match="in use"):
            request_lease(library, keys[2])
        second.close()
        assert eventually(lambda: leases(server) == 1)
        third = lease_of(library, keys[2])
        assert {model["key"] for model in server.manager.status()["models"]} == {keys[0], keys[2]}
        first.close()
        third.close()


def test_an_evicted_model_in_use_stays_charged_until_its_last_user_closes(chain: Chain, library: Library) -> None:
    key = prepare(chain(), kind="weights").key
    with serving(library) as server:
        lease = lease_of(library, key)
        assert ask_server(library, {"op": "evict", "key": key})["gone"] is False  # type: ignore[index]
        tier = server.manager.status()["tiers"][0]
        assert tier["evicted_bytes"] == tier["used_bytes"] == MODEL_BYTES
        with pytest.raises(ShareError, match="still in use"):
            request_lease(library, key)
        lease.close()
        assert eventually(lambda: server.manager.status()["tiers"][0]["used_bytes"] == 0)
        lease_of(library, key).close()
        assert server.manager.loads == 2


def test_another_users_connection_is_refused(chain: Chain, library: Library) -> None:
    key = prepare(chain(), kind="weights").key
    with serving(library, user=os.geteuid() + 1), pytest.raises(ShareError, match="its own user"):
        request_lease(library, key)
    assert library.root.stat().st_mode & 0o077 == 0


def test_strange_words_end_one_connection_only(chain: Chain, library: Library) -> None:
    key = prepare(chain(), kind="weights").key
    with serving(library):
        for words in (b"\0\0\0\5hello", b"\xff\xff\xff\xff", b"\0\0\0\x02{}", b"\0\0"):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(os.fspath(socket_path(library.root)))
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                assert stranger.recv(100) == b""
        with pytest.raises(ShareError, match="no operation"):
            ask_server(library, {"op": "dance"})
        for wrong in ("", "../../etc", "f" * 32):
            with pytest.raises(ShareError):
                request_lease(library, wrong)
        lease_of(library, key).close()


def test_a_tampered_model_is_refused_and_others_are_served(chain: Chain, library: Library) -> None:
    bad, good = (prepare(chain(f"m{n}", seed=n), kind="weights") for n in range(2))
    with open(bad.folder / "weights.bin", "r+b") as file:
        file.write(b"tampered")
    with serving(library) as server:
        with pytest.raises(IntegrityError, match="digest differs"):
            request_lease(library, bad.key)
        lease_of(library, good.key).close()
        assert len(server.manager.status()["models"]) == 1


def test_a_layer_that_two_models_have_is_held_once(chain: Chain, library: Library) -> None:
    with serving(library):
        both = [
            prepare(chain(name, layers=layers), kind="weights", granularity="layer")
            for name, layers in (("long", 3), ("short", 2))
        ]
        held = [lease_of(library, artifact.key) for artifact in both]
        inodes = [
            {os.fstat(descriptor).st_ino for name, descriptor in lease.descriptors.items() if name.startswith("blob-")}
            for lease in held
        ]
        assert len(inodes[0]) == 3
        assert inodes[1] < inodes[0]
        for lease in held:
            lease.close()


def test_a_model_with_saved_blobs_is_leased_on_its_file(chain: Chain, library: Library) -> None:
    artifact = prepare(chain(), kind="weights")
    text = (artifact.folder / "manifest.json").read_text().replace('"direct"', '"saved"')
    (artifact.folder / "manifest.json").write_text(text)
    with serving(library) as server:
        lease = lease_of(library, artifact.key)
        assert lease.tier == "file"
        assert server.manager.status()["tiers"][1]["leased_bytes"] == MODEL_BYTES
        lease.close()


def serve_http(folder: Path) -> http.server.ThreadingHTTPServer:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_model_comes_from_the_remote_tier_once_and_verified(
    chain: Chain, library: Library, tmp_path: Path, kind: str
) -> None:
    artifact = prepare(chain(), kind="weights")
    remote_folder = tmp_path / "remote"
    copy_to(artifact.folder, remote_folder)
    library.evict(artifact.key)
    web = serve_http(remote_folder)
    remote = str(remote_folder) if kind == "folder" else f"http://127.0.0.1:{web.server_port}"
    with serving(library, ManagerSettings(1 << 30, 1 << 30, remote=remote)):
        lease_of(library, artifact.key).close()
        assert library.find(artifact.key) is not None
        library.evict(artifact.key)
        with open(remote_folder / artifact.key / "weights.bin", "r+b") as file:
            file.write(b"x")
        assert not fetch(remote, "0" * 32, library)
        with pytest.raises(IntegrityError, match="digest differs"):
            fetch(remote, artifact.key, library)
        assert library.read(artifact.key) is None
    web.shutdown()
    web.server_close()


@pytest.mark.parametrize("remote", ["http://192.0.2.1/x", "https://example.org", "ftp://127.0.0.1/"])
def test_a_remote_on_another_machine_is_refused(library: Library, remote: str) -> None:
    with pytest.raises(ShareError, match="not on this machine"):
        fetch(remote, "0" * 32, library)


@pytest.mark.slow
def test_random_clients_leave_nothing_behind(chain: Chain, library: Library) -> None:
    """Opens, closes, crashes and evictions by real connections; then descriptors and mappings are counted."""
    models = [chain(f"m{n}", seed=n, layers=1 + n % 3) for n in range(5)]
    artifacts = [prepare(model, kind="weights") for model in models]
    budget = 2 * MODEL_BYTES
    stream = random.Random(0)
    with serving(library, ManagerSettings(memory_bytes=budget, file_bytes=0)) as server:
        open_arrays(artifacts[0], library).close()
        assert eventually(lambda: leases(server) == 0)
        for artifact in artifacts:
            ask_server(library, {"op": "evict", "key": artifact.key})
        before = descriptor_count(), mapping_count()
        held: list[tuple[SharedArrays, np.ndarray, float]] = []
        refused = 0
        for _ in range(10_000):
            action = stream.random()
            if action < 0.5:
                try:
                    arrays = open_arrays(stream.choice(artifacts), library)
                except ShareError:
                    refused += 1
                    continue
                held.append((arrays, arrays["w0"], float(arrays["w0"][0, 0])))
            elif action < 0.9 and held:
                arrays, array, value = held.pop(stream.randrange(len(held)))
                assert float(array[0, 0]) == value
                arrays.close()
            else:
                ask_server(library, {"op": "evict", "key": stream.choice(artifacts).key})
            status = server.manager.status()["tiers"][0]
            assert status["used_bytes"] <= budget
        assert refused > 0
        assert all(float(array[0, 0]) == value for _, array, value in held)
        del array, arrays
        while held:
            held.pop()[0].close()
        assert eventually(lambda: leases(server) == 0)
        for artifact in artifacts:
            ask_server(library, {"op": "evict", "key": artifact.key})
        assert eventually(lambda: descriptor_count() <= before[0])
        assert server.manager.status()["tiers"][0]["used_bytes"] == 0
        assert mapping_count() <= before[1] + 40  # threads that ended leave their stacks to the C library
    shutil.rmtree(library.root)

"""The PyTorch back end on shared weights: same answers, no copies, and clear refusals of what would copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stratoscope.backends.base import BackendOptions
from stratoscope.backends.openvino import OpenVinoSession
from stratoscope.backends.pytorch.backend import PyTorchBackend
from stratoscope.errors import BackendError
from stratoscope.share.library import Library
from stratoscope.share.manager import ManagerSettings
from stratoscope.share.prepare import prepare
from stratoscope.share.server import Server
from stratoscope.spec.model import LoadableModel

pytestmark = pytest.mark.torch
Chain = Callable[..., LoadableModel]
SHARED = BackendOptions(threads=1, shared=True)


def feeds(batch: int = 3, width: int = 256) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(7).standard_normal((batch, width), dtype=np.float32)}


@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_a_graph_answers_like_the_default_and_copies_nothing(chain: Chain, granularity: str) -> None:
    model = chain("deep", layers=6, width=512)
    expected = PyTorchBackend().load(model, BackendOptions(threads=1)).run(feeds(width=512))
    options = BackendOptions(threads=1, shared=True, shared_granularity=granularity)
    for _ in range(2):  # the first prepares
        session = PyTorchBackend().load(model, options)
        np.testing.assert_array_equal(session.run(feeds(width=512))[0], expected[0])
        facts = session.effective_options["shared"]
        session.close()
    assert facts["weights_bytes"] >= 6 * 512 * 512 * 4
    assert facts["private_bytes"] < 4 << 20


def test_both_frameworks_and_the_plain_weights_have_artefacts_of_their_own(chain: Chain) -> None:
    model = chain()
    keys = {prepare(model, kind=kind).key for kind in ("onnxruntime", "pytorch", "weights")}
    assert len(keys) == 3


def test_equal_layers_of_two_models_lie_in_one_file(chain: Chain, library: Library) -> None:
    long, short = chain("long", layers=3), chain("short", layers=2)
    one = prepare(long, kind="pytorch", granularity="layer")
    other = prepare(short, kind="pytorch", granularity="layer")

    def inodes(folder: Path) -> set[int]:
        return {file.stat().st_ino for file in folder.glob("blob-*")}

    assert len(inodes(one.folder)) == 3
    assert inodes(other.folder) < inodes(one.folder)
    library.evict(one.key)
    assert len(list((library.root / ".layers").iterdir())) == 2


def test_a_module_runs_from_sealed_memory(chain: Chain, library: Library) -> None:
    model = chain()
    expected = PyTorchBackend().load(model, BackendOptions(threads=1)).run(feeds())
    with Server(library, ManagerSettings(64 << 20, 64 << 20)) as server:
        server.start()
        session = PyTorchBackend().load(model, SHARED)
        assert session.effective_options["shared"]["tier"] == "memory"
        np.testing.assert_array_equal(session.run(feeds())[0], expected[0])
        session.close()
    np.testing.assert_array_equal(session.prepared.module(*session.prepared.tensors(feeds()))[0], expected[0])


def test_layers_of_a_shared_module_can_be_traced(chain: Chain) -> None:
    spans = PyTorchBackend().trace(chain(), SHARED, feeds(), warmup=1, repeats=2)
    assert spans["run"].n_unique() == 2


@pytest.mark.parametrize(
    "options",
    [{"precision": "bfloat16"}, {"channels_last": True}, {"execution": "compile"}, {"providers": ("cuda",)}],
)
def test_an_option_that_copies_weights_is_refused(chain: Chain, options: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        PyTorchBackend().load(chain(), SHARED.model_copy(update=options))


def test_back_ends_and_modes_that_cannot_share_say_so(chain: Chain) -> None:
    with pytest.raises(BackendError, match="nobody can share"):
        PyTorchBackend().training().load(chain(), SHARED)
    with pytest.raises(BackendError, match="keeps a copy"):
        OpenVinoSession(chain(), SHARED)


def test_a_module_of_this_process_is_pointed_to_load_torch(chain: Chain) -> None:
    import torch

    model = LoadableModel(chain().manifest, None, module=torch.nn.Linear(256, 256))
    with pytest.raises(BackendError, match="load_torch"):
        PyTorchBackend().load(model, SHARED)

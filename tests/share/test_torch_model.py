"""PyTorch modules over shared weights: same answers, no private copy, and writes that nobody else sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stratoscope.share.errors import IntegrityError, ShareError
from stratoscope.share.library import Library
from stratoscope.share.manager import ManagerSettings
from stratoscope.share.memory import private_bytes
from stratoscope.share.safetensors import FILE
from stratoscope.share.server import Server
from stratoscope.share.torch_model import build_hollow, load_torch

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDTH = 1024


class Small(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Tied weights, a buffer outside the state dictionary, a bfloat16 one, and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.second = torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.norm = torch.nn.BatchNorm1d(64)
        self.register_buffer("mask", torch.arange(64.0), persistent=False)
        self.register_buffer("scale", torch.full((3,), 1.5, dtype=torch.bfloat16))
        self.register_buffer("empty", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        return self.norm(self.second(torch.relu(self.first(x)))) * self.mask * self.scale[0].float()


def seeded() -> Small:
    torch.manual_seed(0)
    return Small()


def large() -> torch.nn.Module:  # type: ignore[name-defined]
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(10)))


X = torch.linspace(-1, 1, 128).reshape(2, 64)


def test_answers_ties_and_hidden_buffers_are_those_of_the_original() -> None:
    shared = load_torch(seeded, name="small", identity="seed 0", example=(X,))
    with torch.no_grad():
        torch.testing.assert_close(shared.module(X), seeded().eval()(X), rtol=0, atol=0)
    assert shared.module.first.weight.data_ptr() == shared.module.second.weight.data_ptr()
    assert shared.module.scale.dtype == torch.bfloat16
    assert shared.arrays.artifact.manifest.facts["largest_error"] == 0
    assert not any(parameter.requires_grad for parameter in shared.module.parameters())
    assert not shared.module.training


def test_a_hollow_module_has_the_structure_of_the_original_and_no_initialiser_is_run() -> None:
    filled: list[str] = []

    class Noisy(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(8, 8)
            torch.nn.init.trunc_normal_(self.linear.weight, std=0.02)
            self.linear.bias.data.zero_()
            plain = torch.zeros(3, device="cpu")
            torch.nn.init.ones_(plain)  # not on the meta device: it counts
            filled.extend(str(value) for value in plain.tolist())
            self.register_buffer("plain", plain)

    hollow, real = build_hollow(Noisy), Noisy()
    assert {name: tuple(t.shape) for name, t in hollow.state_dict().items()} == {
        name: tuple(t.shape) for name, t in real.state_dict().items()
    }
    assert hollow.linear.weight.is_meta
    assert filled == ["1.0"] * 6


def test_the_file_is_safetensors_with_tensors_on_pages() -> None:
    from safetensors import safe_open

    shared = load_torch(large, name="large", identity="seed 0")
    with safe_open(shared.arrays.artifact.folder / FILE, framework="pt") as file:
        for name, value in large().state_dict().items():
            torch.testing.assert_close(file.get_tensor(name), value, rtol=0, atol=0)
    for parameter in shared.module.parameters():
        assert parameter.numel() < WIDTH * WIDTH or parameter.data_ptr() % 4096 == 0


def test_loading_copies_no_weights() -> None:
    load_torch(large, name="large", identity="seed 0").close()
    before = private_bytes()
    shared = load_torch(large, name="large", identity="seed 0")
    shared.module(torch.ones(1, WIDTH))
    assert private_bytes() - before < 10 * WIDTH * WIDTH * 4 / 4


@pytest.mark.parametrize("served", [False, True])
def test_a_write_stays_in_the_module_that_made_it(library: Library, served: bool) -> None:
    load_torch(large, name="large", identity="seed 0").close()
    with Server(library, ManagerSettings(1 << 30, 1 << 30)) as server:
        if served:
            server.start()
        else:
            server.stop()
        one = load_torch(large, name="large", identity="seed 0")
        other = load_torch(large, name="large", identity="seed 0")
        assert one.arrays.tier == ("memory" if served else "file")
        before = other.module[0].weight[0, 0].item()
        one.module[0].weight[0, 0] = 42.0
        assert other.module[0].weight[0, 0].item() == before
        assert load_torch(large, name="large", identity="seed 0").module[0].weight[0, 0].item() == before


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    def other() -> torch.nn.Module:  # type: ignore[name-defined]
        return torch.nn.Linear(64, 64)

    path, original = tmp_path / f"weights{suffix}", other()
    if suffix == ".pt":
        torch.save(original.state_dict(), path)
    else:
        save_file(original.state_dict(), path)
    shared = load_torch(other, path, name="linear")
    torch.testing.assert_close(shared.module.weight, original.weight, rtol=0, atol=0)
    with pytest.raises(ShareError, match="do not fit"):
        load_torch(lambda: torch.nn.Linear(32, 32), path, name="narrow")
    with pytest.raises(ShareError, match="do not fit"):
        load_torch(lambda: torch.nn.Linear(32, 32), path, name="linear")


def test_a_pickle_with_code_is_not_loaded(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "bad.pt"
    path.write_bytes(pickle.dumps({"weight": Path}, protocol=2))  # torch.save's own protocol
    with pytest.raises(ShareError, match="cannot read weights"):
        load_torch(lambda: torch.nn.Linear(2, 2), path, name="bad")


def test_weights_without_a_name_are_refused() -> None:
    with pytest.raises(ShareError, match="identity="):
        load_torch(large, name="large")


def test_a_tampered_file_is_refused() -> None:
    shared = load_torch(large, name="large", identity="seed 0")
    with open(shared.arrays.artifact.folder / FILE, "r+b") as file:
        file.seek(1 << 20)
        file.write(b"tampered")
    with pytest.raises(IntegrityError, match="digest differs"):
        load_torch(large, name="large", identity="seed 0")


Factory = Callable[[], object]


def test_other_identities_are_other_weights() -> None:
    def drawn(seed: int) -> Factory:
        def make() -> torch.nn.Module:  # type: ignore[name-defined]
            torch.manual_seed(seed)
            return torch.nn.Linear(8, 8)

        return make

    first, second = (load_torch(drawn(n), name="drawn", identity=f"seed {n}") for n in (1, 2))  # type: ignore[arg-type]
    assert not np.array_equal(first.arrays["weight"], second.arrays["weight"])

"""Models of a hub: from its cache without a network, nothing of the repository executed, one line where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stratoscope.errors import ModelError
from stratoscope.models import hub

pytestmark = pytest.mark.torch
REVISION = "0123456789abcdef0123456789abcdef01234567"

FILL = """
import sys, torch, transformers
torch.manual_seed(0)
config = transformers.BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=16, max_position_embeddings=12)
transformers.BertForMaskedLM(config).save_pretrained(sys.argv[1])
"""

RESOLVE = """
import sys
from pathlib import Path
import numpy, onnxruntime
from stratoscope.models.resolve import resolve
model = resolve("hf:someone/tiny", batch_size=3, cache=Path(sys.argv[1]))
feeds = {s.name: numpy.ones(s.shape, s.element_type) for s in model.manifest.inputs}
(logits,) = onnxruntime.InferenceSession(str(model.path)).run(None, feeds)
print(model.name, model.manifest.version, model.manifest.weights, logits.shape, sorted(feeds))
"""


def snapshot(root: Path) -> Path:
    """The folder of one revision, as the hub's client lays out its cache."""
    repository = root / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    return folder


def python(code: str, *args: str, hub_cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_a_model_in_the_hubs_cache_is_exported_without_a_network(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "hub")
    assert python(FILL, str(folder), hub_cache=tmp_path / "hub").returncode == 0
    done = python(RESOLVE, str(tmp_path / "cache"), hub_cache=tmp_path / "hub")
    expected = f"hf:someone/tiny 1.0.0+{REVISION} trained (3, 12, 50) ['attention_mask', 'input_ids', 'token_type_ids']"
    assert done.stdout.strip() == expected, done.stderr
    assert "Loading weights" not in done.stderr  # no bar of transformers between the lines of our own


@pytest.mark.slow
def test_pickled_weights_and_code_of_the_repository_are_not_loaded(tmp_path: Path) -> None:
    folder, trap = snapshot(tmp_path / "hub"), tmp_path / "executed"
    code = f"from pathlib import Path\nPath({str(trap)!r}).touch()\n"
    (folder / "modeling_trap.py").write_text(code)
    remote = {"model_type": "trap", "auto_map": {"AutoConfig": "modeling_trap.Trap", "AutoModel": "modeling_trap.Trap"}}
    (folder / "config.json").write_text(json.dumps(remote))
    done = python(RESOLVE, str(tmp_path / "cache"), hub_cache=tmp_path / "hub")
    assert "ModelError" in done.stderr.splitlines()[-1]
    pickled = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(pickled))
    (folder / "pytorch_model.bin").write_bytes(b"cos\nmknod\n(S'" + str(trap).encode() + b"'\ntR.")
    done = python(RESOLVE, str(tmp_path / "cache"), hub_cache=tmp_path / "hub")
    assert "ModelError" in done.stderr.splitlines()[-1]
    assert not trap.exists()


@pytest.mark.parametrize("name", ["", "bert", "../../etc/passwd", "a/b/c", "a/..", "org/na me"])
def test_what_is_no_name_of_a_hub_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no name of a hub model .*hf:ORG/NAME"):
        hub.obtain_from_hub(name, tmp_path)


def test_a_hub_that_cannot_be_reached_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_is_reachable", lambda: False)
    with pytest.raises(ModelError, match=r"hf:someone/absent: the hub cannot be reached .*path of an \.onnx file"):
        hub.obtain_from_hub("someone/absent", tmp_path)

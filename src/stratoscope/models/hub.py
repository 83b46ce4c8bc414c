"""Models of the Hugging Face hub by name: safetensors only, no code of the repository is executed."""

from __future__ import annotations

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from stratoscope.errors import ModelError
from stratoscope.models.cache import CachedModel, Progress, Recipe, fetch, silent
from stratoscope.models.extras import require_torch
from stratoscope.spec.base import digest_of
from stratoscope.spec.model import ModelManifest, TensorSpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PROBE_S = 5.0
_TOKENS = 128


def obtain_from_hub(name: str, folder: Path, on_progress: Progress = silent) -> CachedModel:
    """The model ORG/NAME of the hub, exported to ONNX into the cache `folder` with a free batch dimension.

    What the hub's own cache holds is used without a network. Raises ModelError where the torch extra is missing, the
    hub cannot be reached, or the repository has no model that transformers itself knows with safetensors weights.
    """
    label = f"hf:{name}"
    require_torch(label)
    if not _NAME.fullmatch(name):
        raise ModelError(f"{label!r} is no name of a hub model", hint="expected hf:ORG/NAME")
    local = not _is_reachable()
    revision = _load(label, local, lambda: _revision(name, local))
    config = _load(label, local, lambda: _read_config(name, revision, local))
    if config.is_encoder_decoder:
        raise ModelError(
            f"{label} is an encoder-decoder, which has no single graph",
            hint="export its encoder or decoder with torch.onnx.export and give the .onnx file",
        )
    versions = {package: metadata.version(package) for package in ("torch", "transformers", "onnxscript")}
    stem = name.replace("/", "--")
    key = f"hf-{stem}-{digest_of([name, revision, versions]).removeprefix('sha256:')[:12]}"

    def build(path: Path) -> ModelManifest:
        return _build(label, path, _load(label, local, lambda: _read_model(name, revision, config, local)), revision)

    return fetch(Recipe(key, f"{stem}.onnx", label, build), folder, on_progress)


def _is_reachable() -> bool:
    """Whether the hub answers; asked once, since transformers itself retries for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=_PROBE_S):
            return True
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False


def _revision(name: str, local: bool) -> str:
    """The commit that the repository's main branch points to; the hub's cache has a folder a commit."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, "config.json", local_files_only=local)).parent.name


def _read_config(name: str, revision: str, local: bool) -> Any:
    import transformers

    return transformers.AutoConfig.from_pretrained(
        name, revision=revision, trust_remote_code=False, local_files_only=local, attn_implementation="eager"
    )


def _read_model(name: str, revision: str, config: Any, local: bool) -> Any:
    import transformers

    architecture = (config.architectures or [""])[0]
    loader = getattr(transformers, architecture, None) or transformers.AutoModel
    if hasattr(config, "use_cache"):
        config.use_cache = False
    with _no_progress_bars():
        model = loader.from_pretrained(
            name, config=config, revision=revision, use_safetensors=True, local_files_only=local
        )
    return model.float()  # the precision of every other model of the zoo, whatever the checkpoint has


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keeps the bars of transformers off the terminal, where the caller shows its own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(label: str, local: bool, read: Callable[[], Any]) -> Any:
    """What `read` returns; its errors in one line."""
    try:
        return read()
    except (OSError, ValueError, KeyError) as error:
        if local:
            raise ModelError(
                f"{label}: the hub cannot be reached and its local cache does not hold this model",
                hint="check the network, or give the path of an .onnx file",
            ) from error
        raise ModelError(
            f"{label} cannot be loaded: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            hint="it must be of an architecture known to transformers, with safetensors weights; "
            "remote code and pickles are not loaded",
        ) from error


def _build(label: str, path: Path, model: Any, revision: str) -> ModelManifest:
    from stratoscope.models.export import export_module
    from stratoscope.models.signature import read_signature
    from stratoscope.models.torch_zoo import TensorsOnly, example_arguments

    inputs = _inputs(label, model)
    names = [spec.name for spec in inputs]
    outputs = read_signature(
        export_module(TensorsOnly(model, names, 1), path, example_arguments(inputs, 0), input_names=names)
    )[1]
    return ModelManifest(
        id=label,
        version=f"1.0.0+{revision}",
        task=(model.config.architectures or [None])[0],
        references=(f"https://huggingface.co/{label.removeprefix('hf:')}/tree/{revision}",),
        inputs=inputs,
        outputs=outputs,
        weights="trained",
    )


def _inputs(label: str, model: Any) -> tuple[TensorSpec, ...]:
    """The inputs that the model is exported with, by the kind of its main input."""
    import inspect

    config = model.config
    if model.main_input_name == "input_ids":
        length = min(_TOKENS, getattr(config, "max_position_embeddings", None) or _TOKENS)
        ranges = {"input_ids": (0, config.vocab_size), "attention_mask": (1, 2), "token_type_ids": (0, 1)}
        accepted = inspect.signature(model.forward).parameters
        return tuple(
            TensorSpec(name=name, element_type="int64", shape=("N", length), low=low, high=high)
            for name, (low, high) in ranges.items()
            if name in accepted
        )
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", None) or 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        shape = ("N", getattr(config, "num_channels", None) or 3, height, width)
        return (TensorSpec(name="pixel_values", element_type="float32", shape=shape, low=-2.0, high=2.0),)
    raise ModelError(
        f"{label} takes {model.main_input_name!r}; only input_ids and pixel_values are exported",
        hint="export it with torch.onnx.export and give the .onnx file",
    )

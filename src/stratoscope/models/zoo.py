"""The zoo: models that need no network, by name; what each one is and how it gets into the cache."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from stratoscope.errors import ModelError
from stratoscope.models.cache import CachedModel, Progress, Recipe, fetch, silent
from stratoscope.spec.base import digest_of
from stratoscope.spec.model import ModelManifest, TensorSpec
from stratoscope.spec.steps import Normalize

ZOO_SEED = 0
DIGIT_LEVELS = 16  # a pixel of the digits counts the black points of a 4x4 block: 0-16
_GENERATION = 1  # raise it when the same seed no longer gives the same file
DATA_FOLDER = Path(__file__).parent / "data"

Source = Literal["onnx", "transformers", "shipped"]


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """A model of the zoo.

    Attributes:
        source: "onnx": a `light_*` graph of the onnx package with seeded weights; "transformers": built from a
            configuration with seeded weights and exported, needs the torch extra; "shipped": trained, in this package.
        file: the graph's file in its source.
        inputs: their shapes with "N" for the batch, and the range of generated values.
        size_mb: about how much disk the materialised model takes.
        references: papers that describe the architecture.
    """

    name: str
    task: str
    source: Source
    description: str
    inputs: tuple[TensorSpec, ...]
    size_mb: int
    references: tuple[str, ...]
    file: str = ""

    @property
    def needs_torch(self) -> bool:
        """Whether the torch extra must be installed to build it."""
        return self.source == "transformers"


def list_zoo() -> tuple[ZooEntry, ...]:
    """Every model of the zoo, in the order of its table."""
    return _ENTRIES


def find_entry(name: str) -> ZooEntry:
    """The entry called `name`; raises ModelError that suggests the nearest names."""
    for entry in _ENTRIES:
        if entry.name == name:
            return entry
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [e.name for e in _ENTRIES], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`stratoscope models` lists the zoo"
    raise ModelError(f"no model {name!r} in the zoo, and no such file", hint=hint)


def obtain(entry: ZooEntry, folder: Path, on_progress: Progress = silent) -> CachedModel:
    """The model of `entry` as an ONNX file with its manifest, built into the cache `folder` on first use."""
    if entry.source == "shipped":
        return _shipped(entry)
    cached = fetch(_recipe(entry), folder, on_progress)
    described = _manifest(entry, cached.manifest.outputs)  # the file is cached, its description is this table's
    return CachedModel(cached.path, described.model_copy(update={"sha256": cached.manifest.sha256}))


def _recipe(entry: ZooEntry) -> Recipe:
    build: Callable[[Path], ModelManifest]
    packages: tuple[str, ...]
    if entry.source == "onnx":
        packages = ("onnx",)

        def build(path: Path) -> ModelManifest:
            return _build_light(entry, path)
    else:
        from stratoscope.models.extras import require_torch

        require_torch(f"zoo model {entry.name!r}")
        packages = ("torch", "transformers", "onnxscript")

        def build(path: Path) -> ModelManifest:
            return _build_torch(entry, path)

    content = [entry.name, entry.source, _GENERATION, ZOO_SEED, {p: metadata.version(p) for p in packages}]
    key = f"{entry.name}-{digest_of(content).removeprefix('sha256:')[:12]}"
    return Recipe(key, f"{entry.name}.onnx", entry.name, build, entry.size_mb * 1_000_000)


def _build_light(entry: ZooEntry, path: Path) -> ModelManifest:
    import onnx

    from stratoscope.models.materialize import materialize_light
    from stratoscope.models.signature import read_signature

    model = materialize_light(entry.file, ZOO_SEED)
    onnx.save(model, str(path))
    return _manifest(entry, read_signature(model)[1])


def _build_torch(entry: ZooEntry, path: Path) -> ModelManifest:
    from stratoscope.models.signature import read_signature
    from stratoscope.models.torch_zoo import export_entry

    return _manifest(entry, read_signature(export_entry(entry, path, ZOO_SEED))[1])


def _shipped(entry: ZooEntry) -> CachedModel:
    import json

    facts = json.loads((DATA_FOLDER / f"{entry.name}.json").read_text())
    return CachedModel(DATA_FOLDER / entry.file, ModelManifest.model_validate(facts["manifest"]))


def _manifest(entry: ZooEntry, outputs: tuple[TensorSpec, ...]) -> ModelManifest:
    return ModelManifest(
        id=entry.name,
        version=f"{_GENERATION}.0.0",
        task=entry.task,
        description=entry.description,
        license="Apache-2.0",
        references=entry.references,
        inputs=entry.inputs,
        outputs=outputs,
        weights="seeded",
        weights_seed=ZOO_SEED,
    )


def _image(name: str, low: float = -2.0, high: float = 2.0) -> tuple[TensorSpec, ...]:
    """ImageNet pixels, normalised by mean and deviation: about [-2.1, 2.6]."""
    shape = ("N", 3, 224, 224)
    return (TensorSpec(name=name, element_type="float32", shape=shape, low=low, high=high, modality="image"),)


def _tokens(vocabulary: int, length: int, *extra: str) -> tuple[TensorSpec, ...]:
    """Token ids [N, length] with the extra inputs: a mask of ones, segment ids of zero."""
    ranges = {"input_ids": (0, vocabulary), "attention_mask": (1, 2), "token_type_ids": (0, 1)}
    return tuple(
        TensorSpec(name=n, element_type="int64", shape=("N", length), low=ranges[n][0], high=ranges[n][1])
        for n in ("input_ids", *extra)
    )


def _light(name: str, file: str, input_name: str, size_mb: int, title: str, reference: str) -> ZooEntry:
    return ZooEntry(
        name, "image-classification", "onnx", title, _image(input_name), size_mb, (reference,), f"light_{file}.onnx"
    )


_ENTRIES: tuple[ZooEntry, ...] = (
    _light("alexnet", "bvlc_alexnet", "data_0", 244, "AlexNet (BVLC Caffe)", "doi:10.1145/3065386"),
    _light("zfnet512", "zfnet512", "gpu_0/data_0", 350, "ZFNet-512", "arXiv:1311.2901"),
    _light("vgg19", "vgg19", "data_0", 575, "VGG-19", "arXiv:1409.1556"),
    _light("squeezenet", "squeezenet", "data_0", 5, "SqueezeNet 1.1", "arXiv:1602.07360"),
    _light("shufflenet", "shufflenet", "gpu_0/data_0", 6, "ShuffleNet v1, 4 groups", "arXiv:1707.01083"),
    _light("inception_v1", "inception_v1", "data_0", 28, "Inception v1 (GoogLeNet)", "arXiv:1409.4842"),
    _light("inception_v2", "inception_v2", "data_0", 45, "Inception v2 (BN-Inception)", "arXiv:1502.03167"),
    _light("resnet50", "resnet50", "gpu_0/data_0", 103, "ResNet-50", "arXiv:1512.03385"),
    _light("densenet121", "densenet121", "data_0", 33, "DenseNet-121", "arXiv:1608.06993"),
    ZooEntry(
        "bert-base",
        "feature-extraction",
        "transformers",
        "BERT-base encoder, 128 tokens",
        _tokens(30522, 128, "attention_mask", "token_type_ids"),
        440,
        ("arXiv:1810.04805",),
    ),
    ZooEntry(
        "distilbert",
        "feature-extraction",
        "transformers",
        "DistilBERT encoder, 128 tokens",
        _tokens(30522, 128, "attention_mask"),
        266,
        ("arXiv:1910.01108",),
    ),
    ZooEntry(
        "gpt2",
        "text-generation",
        "transformers",
        "GPT-2 small, prefill of 128 tokens, no key-value cache",
        _tokens(50257, 128, "attention_mask"),
        498,
        ("Radford et al. 2019, Language Models are Unsupervised Multitask Learners",),
    ),
    ZooEntry(
        "llama-160m",
        "text-generation",
        "transformers",
        "Llama-style decoder: 12 layers, 12 query heads on 4 key-value heads; prefill of 128 tokens, no cache",
        _tokens(32000, 128, "attention_mask"),
        613,
        ("arXiv:2302.13971", "arXiv:2305.13245"),
    ),
    ZooEntry(
        "t5-small-encoder",
        "feature-extraction",
        "transformers",
        "T5-small encoder, 128 tokens",
        _tokens(32128, 128, "attention_mask"),
        142,
        ("arXiv:1910.10683",),
    ),
    ZooEntry(
        "vit-b16",
        "image-classification",
        "transformers",
        "Vision Transformer B/16, 224 pixels",
        _image("pixel_values"),
        347,
        ("arXiv:2010.11929",),
    ),
    ZooEntry(
        "swin-t",
        "image-classification",
        "transformers",
        "Swin Transformer tiny, window 7",
        _image("pixel_values"),
        120,
        ("arXiv:2103.14030",),
    ),
    ZooEntry(
        "convnext-t",
        "image-classification",
        "transformers",
        "ConvNeXt tiny",
        _image("pixel_values"),
        115,
        ("arXiv:2201.03545",),
    ),
    ZooEntry(
        "mobilenet-v2",
        "image-classification",
        "transformers",
        "MobileNetV2, width 1.0",
        _image("pixel_values", -1.0, 1.0),
        14,
        ("arXiv:1801.04381",),
    ),
    ZooEntry(
        "whisper-tiny-encoder",
        "feature-extraction",
        "transformers",
        "Whisper tiny encoder, 30 s of log-mel features",
        (TensorSpec(name="input_features", element_type="float32", shape=("N", 80, 3000), low=-1.0, high=1.0),),
        33,
        ("arXiv:2212.04356",),
    ),
    ZooEntry(
        "digits",
        "image-classification",
        "shipped",
        "A small trained network for scikit-learn's 8x8 digits; comes with its held-out split",
        (
            TensorSpec(
                name="image",
                element_type="float32",
                shape=("N", 1, 8, 8),
                low=0.0,
                high=1.0,
                modality="image",
                steps=(Normalize(rescale=1 / DIGIT_LEVELS),),
            ),
        ),
        1,
        ("doi:10.24432/C50P49",),
        "digits.onnx",
    ),
)

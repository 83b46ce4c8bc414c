"""Trains the zoo's `digits` network and writes it with its held-out split into the package.

    pip install -e '.[torch,train]' && python tools/train_digits.py

Data: scikit-learn's copy of the test set of the Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998,
UCI, CC BY 4.0): 1797 images of 8x8 pixels with values 0-16. A stratified fifth (360 images) is held out; it is seen by
nothing here but the last line, the accuracy. Seeded: one machine and one set of versions give one result.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from stratoscope._version import __version__
from stratoscope.graph.onnx_file import load_onnx, model_digest
from stratoscope.models.datasets import digits_test
from stratoscope.models.export import export_module
from stratoscope.models.signature import read_signature
from stratoscope.models.zoo import DATA_FOLDER, DIGIT_LEVELS, find_entry
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.steps import ArgSort, Softmax

SEED = 20
EPOCHS = 60
BATCH = 64
HELD_OUT = 0.2


def network() -> nn.Sequential:
    """Two convolutions, pooling, one hidden layer; logits [N, 10] of images [N, 1, 8, 8] in [0, 1]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every image moved by up to one pixel each way, the gap filled with background."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """The network after `EPOCHS` of Adam with a cosine schedule on shifted images."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(model(shifted(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Trains, exports, writes the three files, prints the held-out accuracy."""
    torch.set_num_threads(1)  # the order of summation, and so the weights, would depend on it
    torch.use_deterministic_algorithms(True)
    data = load_digits()
    pixels = data.images.astype(np.uint8)[:, None]
    labels = data.target.astype(np.int64)
    seen, held, seen_labels, held_labels = train_test_split(
        pixels, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    model = train(torch.from_numpy(seen / np.float32(DIGIT_LEVELS)), torch.from_numpy(seen_labels))
    DATA_FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(DATA_FOLDER / "digits_test.npz", images=held, labels=held_labels.astype(np.uint8))
    entry = find_entry("digits")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / entry.file
        example = {"input": torch.rand(2, 1, 8, 8)}
        export_module(model, path, example, input_names=[entry.inputs[0].name], output_names=["logits"])
        (DATA_FOLDER / entry.file).write_bytes(path.read_bytes())
    path = DATA_FOLDER / entry.file
    _, outputs = read_signature(load_onnx(path))
    split = digits_test()
    with torch.inference_mode():
        predicted = model(torch.from_numpy(split.inputs)).argmax(1).numpy()
    accuracy = float((predicted == split.labels).mean())
    manifest = ModelManifest(
        id=entry.name,
        task=entry.task,
        description=entry.description,
        license="Apache-2.0",
        references=entry.references,
        sha256=model_digest(path),
        inputs=entry.inputs,
        outputs=tuple(spec.model_copy(update={"steps": (Softmax(), ArgSort())}) for spec in outputs),
        weights="trained",
        weights_seed=SEED,
    )
    facts = {
        "manifest": manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
        "training": {
            "script": "tools/train_digits.py",
            "seed": SEED,
            "epochs": EPOCHS,
            "training_images": len(seen),
            "held_out_images": len(held),
            "held_out_accuracy": accuracy,
            "parameters": sum(p.numel() for p in model.parameters()),
            "versions": {
                "stratoscope": __version__,
                "torch": torch.__version__,
                "scikit-learn": sklearn.__version__,
                "numpy": np.__version__,
            },
        },
        "data": {
            "name": "Optical Recognition of Handwritten Digits (test set), via scikit-learn",
            "license": "CC BY 4.0",
            "reference": "doi:10.24432/C50P49",
        },
    }
    (DATA_FOLDER / "digits.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"held-out accuracy {accuracy:.4f} on {len(held)} images; {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

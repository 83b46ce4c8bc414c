"""Request logs to compare eviction policies on: read from a file, or drawn from a popularity distribution."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from stratoscope.share.errors import ShareError

Popularity = Literal["zipf", "pareto", "uniform"]

#: Bytes that TrIMS reckons with for each of the models that it was evaluated with (rai-project/trims_mxnet,
#: src/c_api/ipc.h, model_internal_memory_usage), without its synthetic large ones.
TRIMS_MODELS: Final[Mapping[str, int]] = {
    "inceptionbn_21k_2.0": 313_251_904,
    "inception_3.0": 257_446_712,
    "inception_4.0": 399_452_080,
    "dpn68_1.0": 121_952_160,
    "inception_bn_3.0": 141_964_264,
    "bvlc_reference_rcnn_ilsvrc13_1.0": 478_867_008,
    "resnet152_2.0": 553_363_840,
    "dpn92_1.0": 340_148_136,
    "bvlc_googlenet_1.0": 111_213_336,
    "inception_resnet_2.0": 493_087_472,
    "locationnet_1.0": 665_974_792,
    "bvlc_alexnet_1.0": 515_652_240,
    "bvlc_reference_caffenet_1.0": 511_967_136,
    "network_in_network_1.0": 131_029_280,
    "squeezenet_1.0": 33_859_928,
    "o_vgg19_1.0": 1_270_256_016,
    "resnext50_1.0": 221_516_040,
    "resnext50_32x4d_1.0": 223_958_520,
    "vgg19_1.0": 1_270_256_016,
    "resnet152_1.0": 548_354_240,
    "o_resnet152_2.0": 551_699_976,
    "resnext101_32x4d_1.0": 377_705_976,
    "resnext26_32x4d_1.0": 146_605_560,
    "resnet101_2.0": 427_846_016,
    "squeezenet_1.1": 27_743_352,
    "resnet152_11k_1.0": 720_758_120,
    "o_vgg16_1.0": 1_227_778_448,
    "resnext101_1.0": 375_263_496,
    "resnet101_1.0": 422_836_416,
    "vgg16_1.0": 1_227_778_448,
    "vgg16_sod_1.0": 1_198_280_840,
    "resnet18_2.0": 154_232_128,
    "resnet50_2.0": 275_342_848,
    "vgg16_sos_1.0": 1_195_166_368,
    "wrn50_2.0": 758_331_776,
    "resnet50_1.0": 270_482_112,
    "xception_1.0": 244_475_568,
    "o_resnet101_2.0": 427_697_664,
    "resnet200_2.0": 589_260_288,
    "resnet269_2.0": 889_219_456,
    "resnet34_2.0": 235_156_800,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order, as indices into the catalogue of models with their bytes and seconds of load."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    costs_s: tuple[float, ...]
    requests: tuple[int, ...]

    def total_bytes(self) -> int:
        """Bytes of all models together."""
        return sum(self.sizes)


def trims_catalogue(*, start_s: float = 0.02, bandwidth: float = 1.5e9, init: str = "none", seed: int = 0) -> Workload:
    """TrIMS's models without requests: load cost is `start_s` + bytes / `bandwidth`.

    With `init` "spread" each model also has an initialisation time of 20 ms to 2 s, log-uniform, unrelated to its size.
    """
    sizes = tuple(TRIMS_MODELS.values())
    extra = np.zeros(len(sizes))
    if init == "spread":
        extra = np.exp(np.random.default_rng(seed).uniform(math.log(0.02), math.log(2.0), len(sizes)))
    costs = tuple(start_s + size / bandwidth + float(more) for size, more in zip(sizes, extra, strict=True))
    return Workload(tuple(TRIMS_MODELS), sizes, costs, ())


def draw_requests(
    catalogue: Workload, popularity: Popularity, count: int, *, exponent: float = 1.0, seed: int = 0
) -> Workload:
    """`count` independent requests over the catalogue, its models ranked by popularity in a random order.

    "zipf" gives rank r the weight r^-exponent; "pareto" draws one weight a model from Pareto(1, exponent), as TrIMS's
    load generator does; "uniform" gives all the same.
    """
    if count < 1 or exponent <= 0:
        raise ShareError(f"cannot draw {count} requests with exponent {exponent}", hint="both must be positive")
    stream = np.random.default_rng(seed)
    models = len(catalogue.names)
    if popularity == "zipf":
        weights = stream.permutation(np.arange(1, models + 1) ** -exponent)
    elif popularity == "pareto":
        weights = 1 + stream.pareto(exponent, models)
    else:
        weights = np.ones(models)
    picks = stream.choice(models, count, p=weights / weights.sum())
    return Workload(catalogue.names, catalogue.sizes, catalogue.costs_s, tuple(int(pick) for pick in picks))


def read_trace(path: Path) -> Workload:
    """The requests of a log in CSV (with a heading) or JSON lines: `model`, `bytes`, and perhaps `load_s` each.

    A model's size and cost are those of its latest line; a missing cost is 20 ms + bytes at 1.5 GB/s.

    Raises:
        ShareError: the file cannot be read, or a line lacks a field or has a wrong one.
    """
    rows = _rows(path)
    sizes: dict[str, int] = {}
    costs: dict[str, float] = {}
    order: list[str] = []
    for number, row in rows:
        try:
            name, size = str(row["model"]), int(row["bytes"])
            cost = float(row["load_s"]) if row.get("load_s") not in (None, "") else 0.02 + size / 1.5e9
        except (KeyError, TypeError, ValueError) as error:
            raise ShareError(
                f"{path}, line {number}: {error}", hint="each needs model, bytes and perhaps load_s"
            ) from error
        if size < 1 or not math.isfinite(cost) or cost < 0:
            raise ShareError(f"{path}, line {number}: {size} bytes and {cost} s make no sense", hint="mend the log")
        sizes[name], costs[name] = size, cost
        order.append(name)
    if not order:
        raise ShareError(f"{path} holds no requests")
    place = {name: index for index, name in enumerate(sizes)}
    return Workload(
        tuple(sizes), tuple(sizes.values()), tuple(costs[name] for name in sizes), tuple(place[name] for name in order)
    )


def _rows(path: Path) -> Sequence[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ShareError(f"cannot read the request log {path}: {error}") from error
    if text.lstrip().startswith("{"):
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise ShareError(f"{path}, line {number} is not JSON: {error}") from error
                if not isinstance(value, dict):
                    raise ShareError(f"{path}, line {number} is not a JSON object")
                rows.append((number, value))
        return rows
    return [(number, dict(row)) for number, row in enumerate(csv.DictReader(text.splitlines()), 2)]

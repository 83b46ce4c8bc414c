"""Fits the constants of explain/predict/gpu_kernels.py on half of the shapes, and judges them on the other half.

    python benchmarks/predict_gpu.py FOLDER [--json FILE] [--refit]

FOLDER holds `a100_gemm.parquet`, `h200_gemm.parquet` and the attention tables in the form of ai-dynamo/aiconfigurator's
measurements (Apache-2.0): the same shapes on two GPUs. Which half a shape is in is decided by a hash of its dimensions,
never by its time. Printed beside each other, all on the judged half:

- plain roofline scaling: measured here * roofline there / roofline here
- the physics with constants fitted on the other half of both GPUs (what is shipped)
- unseen: the physics with constants fitted on the source GPU alone, the target was never seen; with what it leaves
  unexplained of the time measured here (+measured); or with a gradient-boosted correction of what it leaves
  unexplained, fitted on the source GPU alone (+learned)

Without --refit the shipped constants are judged as they stand. `--blind FILE` (a GEMM table of any GPU that the table
of explain/predict/gpus.py knows) judges them on all bfloat16 rows of a GPU that no constant was fitted on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stratoscope.explain.predict import gpu_kernels as kernels
from stratoscope.explain.predict.gpus import GPUS, Gpu, find_gpu

DEVICES = {"a100": GPUS["a100-sxm4-80gb"], "h200": GPUS["h200-sxm5"]}
KEPT = (0.0, 0.25, 0.5, 0.75, 1.0)
FORMATS = {"fp8": "float8", "sq": "int8", "int8_wo": "int8-weights", "int4_wo": "int4-weights"}
BOUNDS = {
    "compute": (0.3, 1.0),
    "memory": (0.4, 1.0),
    "launch_cycles": (500, 40000),
    "wave_cycles": (0, 9000),
    "split_cycles": (0, 9000),
    "small_tile": (0.0, 0.5),
    "overlap": (1.0, 12.0),
    "passes": (0.5, 8.0),
    "block_tokens": (32, 4096),
    "draw": (4, 100),
}
Model = Callable[[Gpu, Any], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of kernel: its shapes, its times on both GPUs in seconds, and its model."""

    name: str
    shapes: np.ndarray
    times: dict[str, np.ndarray]
    model: Callable[[Gpu, np.ndarray, Any], np.ndarray]
    roofline: Callable[[Gpu, np.ndarray], np.ndarray]
    shipped: Any

    @property
    def fitted(self) -> np.ndarray:
        """True for the shapes that constants may be fitted on; the others judge."""
        return np.array([zlib.crc32(repr(tuple(map(int, row))).encode()) % 2 == 0 for row in self.shapes])


def joined(folder: Path, name: str, keys: Sequence[str], *filters: pl.Expr) -> pl.DataFrame:
    """The shapes that both GPUs have, with the median time of each in seconds."""
    frames = []
    for device in DEVICES:
        table = pl.read_parquet(folder / f"{device}_{name}.parquet")
        known = [one for one in filters if set(one.meta.root_names()) <= set(table.columns)]
        table = table.filter(*known) if known else table
        frames.append(table.group_by(keys).agg((pl.col("latency").median() / 1e3).alias(device)))
    return frames[0].join(frames[1], on=list(keys)).sort(list(keys))


def gemm_family(folder: Path, source: str = "bfloat16") -> Family:
    """Matrix products of one format."""
    table = joined(folder, "gemm", ["m", "n", "k"], pl.col("gemm_dtype") == source)
    kind = FORMATS.get(source, source)
    left, right, out, unit = kernels.FORMATS[kind]

    def roofline(gpu: Gpu, s: np.ndarray) -> np.ndarray:
        m, n, k = s.T
        return kernels.roofline_seconds(gpu, 2 * m * n * k, left * m * k + right * n * k + out * m * n, unit)

    def model(gpu: Gpu, s: np.ndarray, constants: Any) -> np.ndarray:
        return kernels.gemm_seconds(gpu, *s.T, kind, constants)

    return Family(f"gemm {source}", _shapes(table, ["m", "n", "k"]), _times(table), model, roofline, kernels.GEMM)


def attention_family(folder: Path, phase: str) -> Family:
    """Prefill or decode attention, bfloat16, 128 wide heads, without a window."""
    length = "isl" if phase == "prefill" else "cached"
    keys = ["batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim"]
    table = joined(
        folder,
        f"{phase}_attention",
        keys,
        pl.col("window_size") == 0,
        pl.col("kv_cache_dtype") == "bfloat16",
        pl.col("attn_dtype") == "bfloat16",
    ).with_columns((pl.col("isl") + pl.col("step")).alias("cached"))
    columns = ["batch_size", length, "num_heads", "num_key_value_heads", "head_dim"]
    times = kernels.prefill_seconds if phase == "prefill" else kernels.decode_seconds

    def model(gpu: Gpu, s: np.ndarray, constants: Any) -> np.ndarray:
        return times(gpu, *s.T, constants=constants)

    def roofline(gpu: Gpu, s: np.ndarray) -> np.ndarray:
        b, t, h, kv, d = s.T
        if phase == "prefill":
            return kernels.roofline_seconds(gpu, 2 * b * h * t**2 * d, 4 * b * t * d * (h + kv))
        return kernels.roofline_seconds(gpu, 4 * b * h * t * d, 4 * b * d * (t * kv + h))

    shipped = kernels.PREFILL if phase == "prefill" else kernels.DECODE
    return Family(f"{phase} attention", _shapes(table, columns), _times(table), model, roofline, shipped)


def _shapes(table: pl.DataFrame, columns: list[str]) -> np.ndarray:
    return table.select(columns).to_numpy().astype(np.float64)


def _times(table: pl.DataFrame) -> dict[str, np.ndarray]:
    return {device: table[device].to_numpy() for device in DEVICES}


def fit(family: Family, devices: Sequence[str]) -> Any:
    """Constants that minimise the mean absolute log error on the fitted half, by coordinate search from the shipped."""
    rows = np.flatnonzero(family.fitted)
    rows = rows[:: max(1, len(rows) // 1500)]
    shapes = family.shapes[rows]
    names = [field.name for field in dataclasses.fields(family.shipped)]

    def loss(values: dict[str, float]) -> float:
        constants = dataclasses.replace(family.shipped, **values)
        errors = [
            np.abs(np.log(family.model(DEVICES[one], shapes, constants) / family.times[one][rows])).mean()
            for one in devices
        ]
        return float(np.mean(errors))

    values = {name: float(getattr(family.shipped, name)) for name in names}
    steps = {name: (BOUNDS[name][1] - BOUNDS[name][0]) / 6 for name in names}
    best = loss(values)
    for _ in range(24):
        for name in names:
            for sign in (1, -1):
                low, high = BOUNDS[name]
                tried = {**values, name: min(max(values[name] + sign * steps[name], low), high)}
                found = loss(tried)
                if found < best - 1e-6:
                    best, values = found, tried
                    break
            else:
                steps[name] *= 0.6
    return dataclasses.replace(family.shipped, **{name: float(f"{value:.4g}") for name, value in values.items()})


def median_error(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Median of |predicted / measured - 1|."""
    return float(np.median(np.abs(predicted / measured - 1)))


def best_kept(family: Family, constants: Any, devices: Sequence[str]) -> float:
    """The power of the unexplained that travels best between two GPUs, on the fitted half."""
    rows = family.fitted
    shapes = family.shapes[rows]

    def loss(kept: float) -> float:
        total = 0.0
        for here, there in ((devices[0], devices[1]), (devices[1], devices[0])):
            modelled = [family.model(DEVICES[one], shapes, constants) for one in (here, there)]
            predicted = kernels.transferred(family.times[here][rows], modelled[0], modelled[1], kept)
            total += median_error(predicted, family.times[there][rows])
        return total

    return min(KEPT, key=loss)


def judge(family: Family, here: str, there: str, constants: Any, alone: Any, kept: float) -> dict[str, Any]:
    """Median errors of all ways on the judged half, from one GPU to the other."""
    rows = ~family.fitted
    shapes, measured, known = family.shapes[rows], family.times[there][rows], family.times[here][rows]
    roofs = [family.roofline(DEVICES[one], shapes) for one in (here, there)]
    shipped = [family.model(DEVICES[one], shapes, constants) for one in (here, there)]
    unseen = [family.model(DEVICES[one], shapes, alone) for one in (here, there)]
    predicted = kernels.transferred(known, shipped[0], shipped[1], kept)
    errors = np.abs(np.log(predicted / measured))
    return {
        "kernels": family.name,
        "from": here,
        "to": there,
        "shapes": int(rows.sum()),
        "roofline": median_error(kernels.transferred(known, roofs[0], roofs[1], 1.0), measured),
        "physics": median_error(predicted, measured),
        "physics_p90": float(np.exp(np.quantile(errors, 0.9)) - 1),
        "kept": kept,
        "unseen": median_error(kernels.transferred(known, unseen[0], unseen[1], 1.0), measured),
        "unseen_without_measured": median_error(unseen[1], measured),
        "unseen_and_learned": median_error(unseen[1] * learned(family, here, there, alone), measured),
    }


def learned(family: Family, here: str, there: str, constants: Any) -> np.ndarray:
    """A boosted correction of the physics by shape, fitted on the source's fitted half, applied to the target."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = family.fitted
    modelled = {one: family.model(DEVICES[one], family.shapes, constants) for one in (here, there)}

    def features(device: str, which: np.ndarray) -> np.ndarray:
        shapes = np.log2(family.shapes[which])
        extra = modelled[device][which] / family.roofline(DEVICES[device], family.shapes[which])
        return np.column_stack([shapes, np.log(extra), np.log(modelled[device][which])])

    regressor = HistGradientBoostingRegressor(max_iter=150, learning_rate=0.06, random_state=0)
    regressor.fit(features(here, rows), np.log(family.times[here][rows] / modelled[here][rows]))
    return np.exp(regressor.predict(features(there, ~rows)))


def blind(file: Path) -> None:
    """Errors of the shipped constants on a GPU that they were not fitted on, beside the roofline alone."""
    table = pl.read_parquet(file).filter(pl.col("gemm_dtype") == "bfloat16")
    gpu = find_gpu(str(table["device"][0]))
    table = table.group_by(["m", "n", "k"]).agg(pl.col("latency").median() / 1e3).sort("m", "n", "k")
    m, n, k = table.select("m", "n", "k").to_numpy().astype(np.float64).T
    measured = table["latency"].to_numpy()
    roof = kernels.roofline_seconds(gpu, 2 * m * n * k, 2 * (m * k + k * n + m * n))
    modelled = kernels.gemm_seconds(gpu, m, n, k)
    print(f"{gpu.name}: {len(table)} shapes, physics {median_error(modelled, measured):.1%}", end=", ")
    print(f"roofline {median_error(roof, measured):.1%} (median errors, nothing measured on it was used)")


def main() -> None:
    """Prints the tables and writes them with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--blind", type=Path, action="append", default=[], help="GEMM table of another GPU")
    parser.add_argument("--refit", action="store_true", help="fit anew instead of judging the shipped constants")
    options = parser.parse_args()
    for file in options.blind:
        blind(file)
    if options.blind:
        return
    families = [gemm_family(options.folder), *(attention_family(options.folder, one) for one in ("prefill", "decode"))]
    rows, constants = [], {}
    for family in families:
        both = fit(family, list(DEVICES)) if options.refit else family.shipped
        constants[family.name] = dataclasses.asdict(both)
        kept = best_kept(family, both, list(DEVICES))
        for here, there in (("a100", "h200"), ("h200", "a100")):
            rows.append(judge(family, here, there, both, fit(family, [here]), kept))
    for source in ("sq", "int8_wo", "int4_wo"):
        family = gemm_family(options.folder, source)  # never fitted: constants and `kept` are those of bfloat16
        gemm = kernels.GemmConstants(**constants["gemm bfloat16"])
        for here, there in (("a100", "h200"), ("h200", "a100")):
            rows.append(judge(family, here, there, gemm, gemm, rows[0]["kept"]))
    print(
        f"{'kernels':18} {'from':>5} {'to':>5} {'shapes':>6}  median error: roofline  physics (p90)  unseen  +learned"
    )
    for row in rows:
        print(
            f"{row['kernels']:18} {row['from']:>5} {row['to']:>5} {row['shapes']:6d} {row['roofline']:9.1%} "
            f"{row['physics']:9.1%} {row['physics_p90']:6.0%} {row['unseen_without_measured']:8.1%} "
            f"{row['unseen']:9.1%} {row['unseen_and_learned']:9.1%}"
        )
    for name, values in constants.items():
        print(name, values)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "constants": constants}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Times of GPU kernels from physics: tiles in waves over multiprocessors, compute and memory roofs, launch latency.

The form is that of wave models (Habitat, Yu et al., USENIX ATC 2021; NeuSight, Lee et al., ASPLOS 2025): a kernel is
a grid of tiles, a multiprocessor works on one tile after the other, and a grid that does not fill the last wave still
takes all of it. Latencies are in clock cycles, so they scale with the clock; rates scale with their roofs. The same few
constants hold for all GPUs; benchmarks/predict_gpu.py fits and judges them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.gpus import Gpu

Seconds = np.ndarray[Any, np.dtype[np.float64]]
#: A number or an array of numbers; arrays broadcast.
Numbers = Any

#: Output tiles that libraries have kernels for (rows, columns), and into how many parts they split the inner dimension.
TILES: Final = ((16, 64), (32, 64), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))
SPLITS: Final = (1, 2, 3, 4, 6, 8, 16, 32)
INNER_STEP: Final = 64  # the inner dimension is worked in steps of so many
LEAST_INNER: Final = 128  # no part of a split has less
#: Bytes a clock that one multiprocessor can draw from L2 (the width of its port; A100 and H100 alike).
L2_BYTES_PER_CLOCK: Final = 64
ATTENTION_TILE: Final = 128

#: Format of a product: (bytes of an activation, of a weight, of an output; type of the matrix unit).
FORMATS: Final = MappingProxyType(
    {
        "bfloat16": (2.0, 2.0, 2.0, "bfloat16"),
        "float16": (2.0, 2.0, 2.0, "float16"),
        "float8": (1.0, 1.0, 2.0, "float8"),
        "int8": (1.0, 1.0, 2.0, "int8"),
        "int8-weights": (2.0, 1.0, 2.0, "bfloat16"),
        "int4-weights": (2.0, 0.5, 2.0, "bfloat16"),
    }
)


@dataclass(frozen=True, slots=True)
class GemmConstants:
    """Fitted to the times of bfloat16 products (see benchmarks/predict_gpu.py for data, split and errors).

    Attributes:
        compute: part of the peak that a large tile reaches.
        memory: part of the memory bandwidth that is reached.
        launch_cycles: from launch to end of an empty grid.
        wave_cycles: fill and drain of one wave's pipeline.
        split_cycles: of the second pass that adds the parts of a split.
        small_tile: part of the rate that a 64 x 64 tile loses for each 1/64 of its edges' reciprocals.
        overlap: p of the p-norm that joins compute and memory: 1 is one after the other, infinity full overlap.
    """

    compute: float = 1.0
    memory: float = 0.8568
    launch_cycles: float = 3905.0
    wave_cycles: float = 1072.0
    split_cycles: float = 4194.0
    small_tile: float = 0.2147
    overlap: float = 2.458


@dataclass(frozen=True, slots=True)
class PrefillConstants:
    """Of causal attention over a whole prompt: as GemmConstants; `passes` is how often Q, K, V and output are moved."""

    compute: float = 0.5878
    memory: float = 0.7093
    launch_cycles: float = 19110.0
    wave_cycles: float = 1572.0
    passes: float = 2.022
    overlap: float = 1.053


@dataclass(frozen=True, slots=True)
class DecodeConstants:
    """Of attention of one token over a cache: a block reads `block_tokens`, a multiprocessor `draw` bytes a clock."""

    memory: float = 0.6611
    launch_cycles: float = 11620.0
    wave_cycles: float = 7325.0
    block_tokens: float = 1023.0
    draw: float = 17.24
    overlap: float = 1.725


GEMM: Final = GemmConstants()
PREFILL: Final = PrefillConstants()
DECODE: Final = DecodeConstants()


def gemm_seconds(
    gpu: Gpu, m: Numbers, n: Numbers, k: Numbers, kind: str = "bfloat16", constants: GemmConstants = GEMM
) -> Seconds:
    """Seconds of [m, k] x [k, n], weights cold in memory; arrays broadcast.

    The best of all tiles and splits is taken, as a library's heuristic would. Raises MeasurementError for a format
    that is not known or that the GPU has no units for.
    """
    m, n, k = _broadcast(m, n, k)
    if kind not in FORMATS:
        raise MeasurementError(f"no product format {kind!r}", hint=f"there are {', '.join(FORMATS)}")
    left, right, out, unit = FORMATS[kind]
    per_unit = gpu.peak(unit) / gpu.multiprocessors
    cycle = 1 / gpu.clock_hz
    memory = (left * m * k + right * n * k + out * m * n) / (gpu.bandwidth_bytes_per_s * constants.memory)
    best = np.full(m.shape, np.inf)
    for rows, columns in TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / columns)
        loss = constants.small_tile * 64 * (1 / rows + 1 / columns)
        rate = per_unit * constants.compute * max(1 - loss, 0.02)
        for split in SPLITS:
            inner = np.ceil(k / split / INNER_STEP) * INNER_STEP
            compute = 2 * rows * columns * inner / rate
            draw = (left * rows + right * columns) * inner / (L2_BYTES_PER_CLOCK * gpu.clock_hz)
            waves = np.ceil(tiles * split / gpu.multiprocessors)
            busy = waves * (np.maximum(compute, draw) + constants.wave_cycles * cycle)
            total = _joined(busy, memory, constants.overlap)
            if split > 1:
                total = np.where(k / split < LEAST_INNER, np.inf, total + constants.split_cycles * cycle)
            best = np.minimum(best, total)
    return np.asarray(best + constants.launch_cycles * cycle)


def prefill_seconds(
    gpu: Gpu,
    batch: Numbers,
    tokens: Numbers,
    heads: Numbers,
    kv_heads: Numbers,
    head_dim: Numbers = 128,
    constants: PrefillConstants = PREFILL,
) -> Seconds:
    """Seconds of causal attention of `tokens` on themselves in bfloat16, tiles above the diagonal left out."""
    batch, tokens, heads, kv_heads, head_dim = _broadcast(batch, tokens, heads, kv_heads, head_dim)
    cycle = 1 / gpu.clock_hz
    peak = gpu.peak("bfloat16") * constants.compute
    tiles = np.ceil(tokens / ATTENTION_TILE)
    tile_flops = 4 * ATTENTION_TILE**2 * head_dim
    whole = batch * heads * tiles * (tiles + 1) / 2 * tile_flops / peak
    longest = tiles * tile_flops / (peak / gpu.multiprocessors)
    waves = np.maximum(1, batch * heads * tiles / gpu.multiprocessors)
    moved = 4 * batch * tokens * head_dim * (heads + kv_heads) * constants.passes
    busy = np.maximum(whole, longest) + constants.wave_cycles * cycle * waves
    memory = moved / (gpu.bandwidth_bytes_per_s * constants.memory)
    return np.asarray(_joined(busy, memory, constants.overlap) + constants.launch_cycles * cycle)


def decode_seconds(
    gpu: Gpu,
    batch: Numbers,
    cached: Numbers,
    heads: Numbers,
    kv_heads: Numbers,
    head_dim: Numbers = 128,
    constants: DecodeConstants = DECODE,
) -> Seconds:
    """Seconds of attention of one token on `cached` tokens of each sequence, bfloat16 cache."""
    batch, cached, heads, kv_heads, head_dim = _broadcast(batch, cached, heads, kv_heads, head_dim)
    cycle = 1 / gpu.clock_hz
    moved = 4 * batch * head_dim * (cached * kv_heads + heads)
    blocks = batch * kv_heads * np.ceil(cached / constants.block_tokens)
    working = np.minimum(blocks, gpu.multiprocessors)
    bandwidth = np.minimum(gpu.bandwidth_bytes_per_s * constants.memory, working * constants.draw * gpu.clock_hz)
    waves = np.maximum(1, blocks / gpu.multiprocessors)
    busy = constants.wave_cycles * cycle * waves
    return np.asarray(_joined(moved / bandwidth, busy, constants.overlap) + constants.launch_cycles * cycle)


def roofline_seconds(gpu: Gpu, flops: Numbers, moved_bytes: Numbers, unit: str = "bfloat16") -> Seconds:
    """The larger of FLOPs over peak and bytes over bandwidth: the plain roofline that the models are held against."""
    flops, moved_bytes = _broadcast(flops, moved_bytes)
    return np.asarray(np.maximum(flops / gpu.peak(unit), moved_bytes / gpu.bandwidth_bytes_per_s))


def transferred(measured_s: Numbers, modelled_here_s: Numbers, modelled_there_s: Numbers, kept: float) -> Seconds:
    """A time measured on one GPU as it would be on another.

    The model's ratio moves it; of what the model does not explain here (measured / modelled) the power `kept` is taken
    along: 1 where kernels and libraries are the same and only speeds differ, 0 where nothing of it returns.
    """
    measured, here, there = _broadcast(measured_s, modelled_here_s, modelled_there_s)
    return np.asarray(there * (measured / here) ** kept)


def _joined(one: Any, other: Any, power: float) -> Any:
    """The p-norm of two times: their sum for 1, the larger one for infinity."""
    large, small = np.maximum(one, other), np.minimum(one, other)
    return large * (1 + (small / large) ** power) ** (1 / power)


def _broadcast(*values: Numbers) -> list[Any]:
    return list(np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in values)))

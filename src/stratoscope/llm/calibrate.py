"""Measures this machine for a minute and fits the efficiency curves to it: matrix products, streams, attention.

PyTorch runs the operators (CPU, or a CUDA device where there is one). The measured shapes are generic ones: no
model that
is later predicted is among them. The result is a document with the curves, the measured table and the environment.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from stratoscope.llm.base import LlmError
from stratoscope.llm.efficiency import Curves, efficiency, shipped_priors
from stratoscope.llm.fit import Floats, coordinate_search, spread
from stratoscope.llm.hardware import HardwareSpec, cpu_hardware
from stratoscope.llm.hf import from_hf
from stratoscope.llm.infer import Deployment
from stratoscope.llm.plan import Engine, ParallelPlan, Precision, find_engine

Measurement = dict[str, Any]
GEMM_M = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GEMM_NK = (
    (256, 256),
    (512, 512),
    (1024, 512),
    (512, 1024),
    (1024, 1024),
    (2048, 1024),
    (1024, 2048),
    (4096, 1024),
    (4096, 256),
    (256, 1024),
    (12288, 768),
)
STREAM_BYTES = (2**14, 2**16, 2**18, 2**27, 2**28)
COLD_BYTES = 2**27  # operands cycle through so much memory that no last-level cache holds the next one
ATTENTION = ((1, 8, 64), (1, 8, 256), (4, 8, 128), (1, 16, 512), (8, 8, 64), (2, 8, 512))
DECODE = ((1, 8, 64), (1, 8, 512), (4, 8, 256), (8, 8, 512), (1, 16, 1024), (16, 8, 128))
HEAD_DIM = 64
EVICTED_BYTES = 2**22  # more than a second-level cache holds
TINY = {
    "hidden_size": 64, "ffn_dim": 256, "num_attention_heads": 2, "max_position_embeddings": 64, "vocab_size": 256,
    "word_embed_proj_dim": 64,
}  # fmt: skip


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise LlmError("calibration runs operators through PyTorch", hint="pip install 'stratoscope[torch]'") from error
    return torch


class Timer:
    """Median seconds of a call, repeated until `budget_s` is spent (at least `least` times) after two warm-up calls.

    `clock` is the wall clock; a single-threaded run on a shared machine may give `time.process_time`, which does
    not count the time that other processes had.
    """

    def __init__(self, budget_s: float = 0.02, least: int = 7, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.budget_s = budget_s
        self.least = least

    def __call__(self, run: Callable[[], object], settle: Callable[[], object] = lambda: None) -> float:
        run()
        run()
        settle()
        times: list[float] = []
        start = self.clock()
        while len(times) < self.least or self.clock() - start < self.budget_s:
            before = self.clock()
            run()
            settle()
            times.append(self.clock() - before)
        return float(np.median(times))


def measure(timer: Timer | None = None) -> dict[str, Any]:
    """Seconds of generic operators on this machine: gemm, stream, prefill and decode attention."""
    torch = _torch()
    timer = timer or Timer()
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    size = 2 if cuda else 4
    settle = torch.cuda.synchronize if cuda else (lambda: None)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, device=device, dtype=dtype)

    gemm: list[Measurement] = []
    attention: list[Measurement] = []
    decode: list[Measurement] = []
    stream: list[Measurement] = []
    attend = torch.nn.functional.scaled_dot_product_attention
    with torch.inference_mode():
        for n, k in GEMM_NK:
            # enough different weights that the next product does not find its own in the last-level cache
            weights = cycle([random(n, k) for _ in range(max(1, COLD_BYTES // (n * k * size)))])
            for m in GEMM_M:
                seconds = timer(partial(_product, torch.nn.functional.linear, random(m, k), weights), settle)
                gemm.append({"m": m, "n": n, "k": k, "seconds": seconds})
        for nbytes in STREAM_BYTES:
            x = random(max(1, nbytes // size // 3))
            seconds = timer(partial(torch.add, x, x, out=torch.empty_like(x)), settle)
            stream.append({"bytes": 3 * x.numel() * size, "seconds": seconds})
        for batch, heads, seq in ATTENTION:
            q, k, v = (random(batch, heads, seq, HEAD_DIM) for _ in range(3))
            seconds = timer(partial(attend, q, k, v, is_causal=True), settle)
            attention.append({"batch": batch, "heads": heads, "seq": seq, "seconds": seconds})
        for batch, heads, context in DECODE:
            held = 2 * batch * heads * context * HEAD_DIM * size
            caches = cycle(
                [
                    (random(batch, heads, context, HEAD_DIM), random(batch, heads, context, HEAD_DIM))
                    for _ in range(max(1, COLD_BYTES // held))
                ]
            )
            seconds = timer(partial(_attend_next, attend, random(batch, heads, 1, HEAD_DIM), caches), settle)
            decode.append({"batch": batch, "heads": heads, "context": context, "seconds": seconds})
    copies: list[Measurement] = []
    with torch.inference_mode():
        for batch, heads, context in DECODE:
            fresh = random(batch, heads, 1, HEAD_DIM)
            stored = [
                random(batch, heads, context, HEAD_DIM)
                for _ in range(max(1, COLD_BYTES // (2 * batch * heads * context * HEAD_DIM * size)))
            ]
            ring = cycle(range(len(stored)))
            seconds = timer(partial(_append, torch.cat, stored, fresh, ring, context), settle)
            copies.append({"bytes": 2 * stored[0].numel() * size, "seconds": seconds})
    framework = [{"layers": layers, "seconds": _tiny_decoder(torch, timer, layers, device)} for layers in (2, 6)]
    return {
        "framework": framework,
        "copies": copies,
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "dtype": "bf16" if cuda else "fp32", "size": size, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "memory_bytes": _memory(torch, cuda),
        "gemm": gemm, "stream": stream, "prefill": attention, "decode": decode,
    }  # fmt: skip


def _tiny_decoder(torch: Any, timer: Timer, layers: int, device: str) -> float:
    """Seconds of a decode step of a decoder so narrow that the framework's own time is nearly all of it."""
    try:
        from transformers import DynamicCache, OPTConfig, OPTForCausalLM
    except ImportError as error:
        raise LlmError(
            "calibration times a tiny transformers model", hint="pip install 'stratoscope[torch]'"
        ) from error
    config = OPTConfig(**TINY, num_hidden_layers=layers)
    model = OPTForCausalLM(config).eval().to(device)
    prompt, token = (torch.zeros(1, count, dtype=torch.long, device=device) for count in (16, 1))
    cache = DynamicCache(config=config)

    def step() -> object:
        model(token, past_key_values=cache, use_cache=True)
        return cache.crop(-1)

    with torch.inference_mode():
        model(prompt, past_key_values=cache, use_cache=True)
        if device == "cuda":  # weights stream through the device's caches, not through those of the host
            return timer(step, torch.cuda.synchronize)
        return _evicted_step(torch, timer, model, step)


def _evicted_step(torch: Any, timer: Timer, model: Any, step: Callable[[], object]) -> float:
    """Seconds of a step whose every linear layer finds the caches full of other data, the eviction itself left out.

    In a model of ordinary width the weights stream through the caches, so interpreter and dispatcher run from memory:
    a tiny model alone would show them at their best.
    """
    buffers = cycle([torch.ones(EVICTED_BYTES // 4) for _ in range(COLD_BYTES // EVICTED_BYTES)])
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    outside: list[float] = []

    def evict(*_: object) -> None:
        before = timer.clock()
        next(buffers).sum()
        outside.append(timer.clock() - before)

    def idle(*_: object) -> None:
        timer.clock()
        outside.append(timer.clock())

    def hooked(hook: Callable[..., None], run: Callable[[], object]) -> float:
        handles = [module.register_forward_pre_hook(hook) for module in linears]
        try:
            return timer(run)
        finally:
            for handle in handles:
                handle.remove()

    times: list[float] = []

    def evicted() -> None:
        outside.clear()
        before = timer.clock()
        step()
        times.append(timer.clock() - before - sum(outside))

    plain, idling = timer(step), hooked(idle, step)
    hooked(evict, evicted)
    return max(plain, float(np.median(times)) - max(0.0, idling - plain))


def _append(cat: Callable[..., Any], held: list[Any], token: Any, ring: Iterator[int], context: int) -> None:
    """One token more for the next cache of the ring, as a dynamic cache does: a new tensor takes the old one's
    place.
    """
    at = next(ring)
    held[at] = cat([held[at][:, :, :context], token], dim=-2)


def _attend_next(attend: Callable[..., Any], query: Any, caches: Iterator[tuple[Any, Any]]) -> Any:
    return attend(query, *next(caches))


def _product(linear: Callable[[Any, Any], Any], x: Any, weights: Iterator[Any]) -> Any:
    return linear(x, next(weights))


def _memory(torch: Any, cuda: bool) -> float:
    if cuda:
        return float(torch.cuda.get_device_properties(0).total_memory)
    import psutil

    return float(psutil.virtual_memory().total)


def _column(rows: list[Measurement], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=float)


def fit_document(measured: dict[str, Any]) -> dict[str, Any]:
    """The calibration document: roofs, curves with their spread, the measured table, the environment.

    The roofs are the best rates seen; the curves are fitted as fractions of them, in the forms of the shipped priors.
    """
    size = float(measured["size"])
    gemm = measured["gemm"]
    m, n, k, seconds = (_column(gemm, name) for name in ("m", "n", "k", "seconds"))
    flops, nbytes = 2 * m * n * k, size * (n * k + m * k + m * n)
    peak = float((flops / seconds).max())
    # traffic from memory, not from a cache: the largest streams, or weights read by thin products
    big = [row for row in measured["stream"] if row["bytes"] >= 2**26]
    bandwidth = max(
        float((_column(big, "bytes") / _column(big, "seconds")).max()), float((nbytes / seconds)[m <= 4].max())
    )

    def gemm_model(x: Floats) -> Floats:
        tiled = np.where(m > 1, np.maximum(m, x[4]) / m, 1.0)
        memory = nbytes / (np.where(m > 1, x[1], x[5]) * bandwidth) + n * x[6]
        compute = flops * tiled / (x[2] * peak)
        top = np.maximum(memory, compute)
        return np.asarray(x[0] + top * (1 + (np.minimum(memory, compute) / top) ** x[3]) ** (1 / x[3]))

    limits = [(1e-8, 1e-3), (0.05, 1.0), (0.05, 1.0), (1.0, 16.0), (1.0, 32.0), (0.05, 1.0), (1e-12, 1e-6)]
    g = coordinate_search(gemm_model, seconds, [5e-6, 0.7, 0.8, 2.0, 4.0, 0.7, 1e-9], limits)
    curves: dict[str, Any] = {
        "gemm": {"bf16": {"t0_s": g[0], "memory": g[1], "compute": g[2], "norm": g[3], "tile_m": g[4],
                          "vector_memory": g[5], "row_s": g[6], **spread(gemm_model(g), seconds)}},
        "elementwise": _fit_stream(measured["stream"], bandwidth),
        "prefill": _fit_prefill(measured["prefill"], peak, bandwidth, size),
        "decode": _fit_decode(measured["decode"], bandwidth, size),
    }  # fmt: skip
    base = shipped_priors().generations["ampere"]
    same = ("t0_s", "memory", "compute", "p10", "p50", "p90", "n", "mae")
    curves["moe"] = {name: curves["gemm"]["bf16"][name] for name in same}
    curves["collectives"] = base.model_dump(mode="json")["collectives"]
    Curves.model_validate(curves)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    document: dict[str, Any] = {
        "schema": 1,
        "source": f"calibrated on {measured['device']} with PyTorch {measured['torch']}, "
        f"{measured['threads']} threads, {when}",
        "environment": {name: measured[name] for name in ("device", "torch", "threads", "dtype", "memory_bytes")},
        "peak_flops_per_s": peak,
        "bandwidth_bytes_per_s": bandwidth,
        "curves": curves,
        "measured": [
            {"kind": "bf16", **row, "log_ratio": float(ratio)}
            for row, ratio in zip(gemm, np.log(seconds / gemm_model(g)), strict=True)
        ],
    }
    stream = document["curves"]["elementwise"]
    rate = stream["memory"] * bandwidth
    costs = [(row["seconds"] - stream["t0_s"]) * rate / row["bytes"] for row in measured["copies"]]
    document["engine"] = {
        **_framework_overhead(document, measured["framework"]),
        "copy_cost": max(1.0, float(np.median(costs))),
    }
    return document


def _fit_stream(rows: list[Measurement], bandwidth: float) -> dict[str, float]:
    nbytes, seconds = _column(rows, "bytes"), _column(rows, "seconds")

    def model(x: Floats) -> Floats:
        return np.asarray(x[0] + nbytes / (x[1] * bandwidth))

    x = coordinate_search(model, seconds, [2e-6, 0.8], [(1e-8, 1e-3), (0.05, 1.0)])
    return {"t0_s": float(x[0]), "memory": float(x[1]), **spread(model(x), seconds)}


def _fit_prefill(rows: list[Measurement], peak: float, bandwidth: float, size: float) -> dict[str, float]:
    batch, heads, seq, seconds = (_column(rows, name) for name in ("batch", "heads", "seq", "seconds"))
    flops = 2 * batch * heads * HEAD_DIM * seq * (seq + 1)
    nbytes = 4 * batch * heads * seq * HEAD_DIM * size

    def model(x: Floats) -> Floats:
        return np.asarray(x[0] + flops / (x[1] * peak) * (1 + x[2] / seq) + nbytes / bandwidth)

    x = coordinate_search(model, seconds, [1e-5, 0.5, 100.0], [(1e-8, 1e-3), (0.02, 1.0), (0.1, 5000.0)])
    return {"t0_s": float(x[0]), "compute": float(x[1]), "half_seq": float(x[2]), **spread(model(x), seconds)}


def _fit_decode(rows: list[Measurement], bandwidth: float, size: float) -> dict[str, float]:
    batch, heads, context, seconds = (_column(rows, name) for name in ("batch", "heads", "context", "seconds"))
    nbytes = 2 * batch * heads * context * HEAD_DIM * size

    def model(x: Floats) -> Floats:
        return np.asarray(x[0] + nbytes / bandwidth * (1 + (x[1] / nbytes) ** x[2]))

    x = coordinate_search(model, seconds, [1e-5, 1e6, 0.5], [(1e-8, 1e-3), (1.0, 1e9), (0.05, 1.0)])
    return {"t0_s": float(x[0]), "half_bytes": float(x[1]), "exponent": float(x[2]), **spread(model(x), seconds)}


def _framework_overhead(document: dict[str, Any], rows: list[Measurement]) -> dict[str, float]:
    """Seconds per layer and per pass that the curves leave unexplained in the tiny decoder; never negative."""
    half = document["environment"]["dtype"]
    predicted = []
    for row in rows:
        fields = {**TINY, "num_hidden_layers": row["layers"], "model_type": "opt"}
        engine = find_engine("pytorch-eager").model_copy(update={"cuda_graphs": True})
        device = efficiency(calibrated_hardware(document), "calibrated", document)
        deployment = Deployment(from_hf(fields, "tiny"), ParallelPlan(), Precision.preset(half), engine, device)
        predicted.append(float(np.max(deployment.decode(1, 17.0).time)))
    (few, short), (many, long) = ((row["layers"], row["seconds"]) for row in rows)
    layer = max(0.0, (long - short - (predicted[1] - predicted[0])) / (many - few))
    return {"layer_host_s": layer, "step_host_s": max(0.0, short - predicted[0] - few * layer)}


def calibrated_engine(document: dict[str, Any]) -> Engine:
    """The eager framework with its measured own time; launch floors are inside the fitted curves already."""
    own = document["engine"]
    update = {"layer_host_s": own["layer_host_s"], "step_host_s": own["step_host_s"], "cuda_graphs": True,
              "copy_cost": own["copy_cost"]}  # fmt: skip
    return find_engine("pytorch-eager").model_copy(update=update)


def calibrated_hardware(document: dict[str, Any]) -> HardwareSpec:
    """The device that a calibration measured, its roofs as peaks."""
    environment = document["environment"]
    hardware = cpu_hardware(
        str(environment["device"]),
        float(document["peak_flops_per_s"]),
        float(environment["memory_bytes"]),
        float(document["bandwidth_bytes_per_s"]),
        source=str(document["source"]),
    )
    if environment["dtype"] == "fp32":
        return hardware
    return hardware.model_copy(update={"peak_flops_per_s": {"bf16": hardware.peak_flops_per_s["fp32"]}})


def load_calibration(path: str | Path) -> dict[str, Any]:
    """A stored calibration; raises LlmError when it cannot be read or is none."""
    file = Path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LlmError(f"{file}: {error.strerror}", hint="run `stratoscope llm calibrate --output FILE`") from error
    except (ValueError, RecursionError) as error:
        raise LlmError(f"{file}: not JSON: {error}") from error
    hint = "run `stratoscope llm calibrate --output FILE`"
    if not isinstance(document, dict) or document.get("schema") != 1 or "curves" not in document:
        raise LlmError(f"{file}: not a calibration", hint=hint)
    try:
        Curves.model_validate(document["curves"])
        calibrated_engine(document)
        efficiency(calibrated_hardware(document), "measured", document)
    except (LlmError, KeyError, TypeError, ValueError) as error:
        raise LlmError(f"{file}: an incomplete calibration: {error}", hint=hint) from error
    return document

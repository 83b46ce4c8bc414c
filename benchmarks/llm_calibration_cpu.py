"""Does a calibration of this machine predict small decoders? prefill and decode of OPTs with random weights.

    python benchmarks/llm_calibration_cpu.py [--cpu-time] [--calibration FILE] [--budget 0.05] [--rounds 2]

Nothing is fitted to the decoders; their batch and context sizes are not among the shapes that the calibration measures.
The form of the model was found on the first decoder; the second one was added after it. Both run through PyTorch with
the same number of threads; keep the machine otherwise idle, or use --cpu-time.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, OPTConfig, OPTForCausalLM

from stratoscope.llm.calibrate import (
    Timer,
    calibrated_engine,
    calibrated_hardware,
    fit_document,
    load_calibration,
    measure,
)
from stratoscope.llm.efficiency import efficiency
from stratoscope.llm.hf import from_hf
from stratoscope.llm.infer import Deployment
from stratoscope.llm.plan import ParallelPlan, Precision

DECODERS = {
    "8 layers, 512 wide": {
        "hidden_size": 512, "ffn_dim": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
        "max_position_embeddings": 1024, "vocab_size": 8192, "word_embed_proj_dim": 512,
    },
    "5 layers, 640 wide": {
        "hidden_size": 640, "ffn_dim": 2560, "num_hidden_layers": 5, "num_attention_heads": 10,
        "max_position_embeddings": 1024, "vocab_size": 10000, "word_embed_proj_dim": 640,
    },
}  # fmt: skip
PREFILL = ((1, 48), (1, 192), (2, 384), (4, 96), (8, 48), (16, 32))
DECODE = ((1, 48), (1, 700), (2, 200), (6, 100), (12, 300), (24, 64))
Times = dict[tuple[str, str, int, int], float]


def judged(timer: Timer) -> Times:
    """Seconds by decoder, phase, batch and tokens."""
    times: Times = {}
    with torch.inference_mode():
        for name, fields in DECODERS.items():
            config = OPTConfig(**fields)
            model = OPTForCausalLM(config).eval()
            for batch, tokens in PREFILL:
                ids = torch.randint(0, fields["vocab_size"], (batch, tokens))
                seconds = timer(partial(model, ids, use_cache=True, logits_to_keep=1))
                times[name, "prefill", batch, tokens] = seconds
            for batch, context in DECODE:
                cache = DynamicCache(config=config)
                prompt = torch.randint(0, fields["vocab_size"], (batch, context))
                model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
                times[name, "decode", batch, context] = timer(partial(step, model, prompt[:, :1], cache))
    return times


def step(model: OPTForCausalLM, token: torch.Tensor, cache: DynamicCache) -> None:
    model(token, past_key_values=cache, use_cache=True)
    cache.crop(-1)


def least(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The measurement of each operator that was disturbed least: other work on the machine only ever adds time."""
    best = rounds[0]
    for later in rounds[1:]:
        for table in ("gemm", "stream", "prefill", "decode", "copies", "framework"):
            for row, other in zip(best[table], later[table], strict=True):
                row["seconds"] = min(row["seconds"], other["seconds"])
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--rounds", type=int, default=2, help="calibration and decoders in turn; the least time counts")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU time: for a machine that others use")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        torch.set_num_threads(1)
    timer = Timer(arguments.budget, 9, time.thread_time if arguments.cpu_time else time.perf_counter)
    rounds: list[dict[str, Any]] = []
    times: Times = {}
    for _ in range(arguments.rounds):
        if not arguments.calibration:
            rounds.append(measure(timer))
        times = {key: min(seconds, times.get(key, seconds)) for key, seconds in judged(timer).items()}
    document = load_calibration(arguments.calibration) if arguments.calibration else fit_document(least(rounds))
    print(document["source"])
    print("framework:", json.dumps(document["engine"]))
    device = efficiency(calibrated_hardware(document), "calibrated", document)
    for name, fields in DECODERS.items():
        spec = from_hf({**fields, "model_type": "opt"}, name)
        deployment = Deployment(spec, ParallelPlan(), Precision.preset("fp32"), calibrated_engine(document), device)
        print(name)
        errors = []
        for (which, phase, batch, tokens), seconds in times.items():
            if which != name:
                continue
            ahead = phase == "prefill"
            cost = deployment.prefill(batch, float(tokens)) if ahead else deployment.decode(batch, float(tokens + 1))
            errors.append(show(phase, batch, tokens, seconds, float(np.max(cost.time))))
        print(f"mean absolute error {100 * np.abs(errors).mean():.1f} %, largest {100 * np.abs(errors).max():.1f} %")


def show(phase: str, batch: int, tokens: int, measured: float, predicted: float) -> float:
    error = predicted / measured - 1
    print(
        f"{phase:<8} batch {batch:>3} tokens {tokens:>4}  measured {measured * 1e3:8.3f} ms  "
        f"predicted {predicted * 1e3:8.3f} ms  {100 * error:+6.1f} %"
    )
    return error


if __name__ == "__main__":
    main()

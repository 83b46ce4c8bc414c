"""Does a calibration of this machine predict a small decoder? prefill and decode of an OPT with random weights.

    python benchmarks/llm_calibration_cpu.py [--calibration FILE] [--budget 0.05]

The decoder (8 layers, 512 wide) and its batch and context sizes are not among the shapes that the calibration measures.
Both run through PyTorch with the same number of threads; keep the machine otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

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

FIELDS = {
    "hidden_size": 512, "ffn_dim": 2048, "num_hidden_layers": 8, "num_attention_heads": 8,
    "max_position_embeddings": 1024, "vocab_size": 8192, "word_embed_proj_dim": 512,
}  # fmt: skip
PREFILL = ((1, 48), (1, 192), (2, 384), (4, 96), (8, 48), (16, 32))
DECODE = ((1, 48), (1, 700), (2, 200), (6, 100), (12, 300), (24, 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, CPU time: for a machine that others use")
    arguments = parser.parse_args()
    if arguments.cpu_time:
        torch.set_num_threads(1)
    timer = Timer(arguments.budget, 9, time.process_time if arguments.cpu_time else time.perf_counter)
    document = load_calibration(arguments.calibration) if arguments.calibration else fit_document(measure(timer))
    print(document["source"])
    print("framework:", json.dumps(document["engine"]))
    device = efficiency(calibrated_hardware(document), "calibrated", document)
    spec = from_hf({**FIELDS, "model_type": "opt"}, "small decoder")
    deployment = Deployment(spec, ParallelPlan(), Precision.preset("fp32"), calibrated_engine(document), device)
    config = OPTConfig(**FIELDS)
    model = OPTForCausalLM(config).eval()
    errors = []
    with torch.inference_mode():
        for batch, tokens in PREFILL:
            ids = torch.randint(0, 8192, (batch, tokens))
            seconds = timer(lambda ids=ids: model(ids, use_cache=True, logits_to_keep=1))
            errors.append(show("prefill", batch, tokens, seconds, float(deployment.prefill(batch, float(tokens)).time)))
        for batch, context in DECODE:
            cache = DynamicCache(config=config)
            model(torch.randint(0, 8192, (batch, context)), past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = torch.randint(0, 8192, (batch, 1))

            def step(token: torch.Tensor = token, cache: DynamicCache = cache) -> None:
                model(token, past_key_values=cache, use_cache=True)
                cache.crop(-1)

            predicted = float(np.max(deployment.decode(batch, float(context + 1)).time))
            errors.append(show("decode", batch, context, timer(step), predicted))
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

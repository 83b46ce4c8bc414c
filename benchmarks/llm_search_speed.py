"""How many training plans a second `stratoscope llm search` prices on one core: time and memory of each.

    python benchmarks/llm_search_speed.py

The clock is CPU time of one thread; every plan is priced for step time and for the memory of its fullest device.
"""

from __future__ import annotations

import os

os.environ.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import time

from stratoscope.llm.efficiency import efficiency
from stratoscope.llm.hardware import find_hardware
from stratoscope.llm.hf import load_model
from stratoscope.llm.plan import Precision, find_engine
from stratoscope.llm.search import TrainingSpace, search_training

# calculon, "Run a single calculation for LLM (~1 sec)", start-up included: its README at commit 013a664. It is not on
# PyPI, so it is not run here.
CALCULON_PLANS_PER_S = 1.0


def main() -> None:
    device, engine = efficiency(find_hardware("h100")), find_engine("megatron-core")
    space = TrainingSpace(devices=tuple(range(8, 2049, 8)), global_batch=2048, seq=8192)
    for name in ("llama-3.1-70b", "deepseek-v3", "gpt-3-175b"):
        rates = []
        for _ in range(5):
            start = time.process_time()
            result = search_training(load_model(name), space, Precision(), engine, device)
            rates.append(result.evaluated / (time.process_time() - start))
        middle, worst = sorted(rates)[2], min(rates)
        print(f"{name:<14} {result.evaluated:>8} plans  median {middle:>10,.0f} plans/s  worst {worst:,.0f}")
    print(f"calculon: about {CALCULON_PLANS_PER_S:g} plan/s, start-up included (published: its README; not run here)")


if __name__ == "__main__":
    main()

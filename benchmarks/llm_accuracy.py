"""Side by side on the same published rows: `stratoscope llm` and llm-analysis from PyPI, both blind.

    python benchmarks/llm_accuracy.py [--json benchmarks/results/llm_accuracy.json]

The first run installs the peer into `.venv-peers/llm`, an environment of its own, and reads it from there; its pins
stay out of ours.
llm-analysis runs as its README advises without knowing the answer: flops efficiency 0.7 for inference and 0.5 for
training, memory efficiency 0.9, its own hardware figures. A row that it refuses or crashes on counts as a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stratoscope.host.capture import capture_hardware, capture_software
from stratoscope.llm.rows import Row, shipped_rows
from stratoscope.llm.validate import KINDS, validate

SUITES = ("C1", "C3", "M1", "C13", "C13-large", "C14", "C14-late", "C14-ttft", "T1")
# The peer's own device files and formats; what it has none for (H200, L40S, B200, fp8 and fp4) counts as a failure.
PEER_DEVICES = {"A100-SXM-80": "a100-sxm-80gb", "A100-SXM-40": "a100-sxm-40gb", "H100-SXM": "h100-sxm-80gb"}
PEER_FORMATS = {"fp16": "w16a16e16", "bf16": "w16a16e16"}
PEER = ("llm-analysis==0.2.2", "fire", "termcolor")
ROOT = Path(__file__).parents[1]


def installed(folder: Path) -> Path:
    """The folder of the peer's packages; makes its environment where there is none yet."""
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if not (packages / "llm_analysis").exists():
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", *PEER]
        subprocess.run(pip, check=True)
    return packages


def peer_model(row: Row) -> object:
    from llm_analysis.config import ModelConfig

    model = row.model
    return ModelConfig(
        name=model.name, num_layers=model.layers, n_head=model.heads, hidden_dim=model.hidden,
        vocab_size=model.vocab, max_seq_len=65536, num_key_value_heads=model.kv_heads, ffn_embed_dim=model.ffn,
    )  # fmt: skip


def analysis(row: Row, flops_efficiency: float) -> object:
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.config import ParallelismConfig, get_dtype_config_by_name, get_gpu_config_by_name

    plan = row.parallel
    parallel = ParallelismConfig(
        tp_size=int(plan["tp"]), pp_size=int(plan["pp"]), dp_size=int(plan.get("dp", 1)),
        sp_size=int(plan["tp"]) if plan.get("sp") else 1,
    )  # fmt: skip
    device, formats = PEER_DEVICES[row.hardware["gpu"]], PEER_FORMATS[row.dtype["weights"]]
    return LLMAnalysis(
        peer_model(row), get_gpu_config_by_name(device), get_dtype_config_by_name(formats), parallel,
        flops_efficiency=flops_efficiency, hbm_memory_efficiency=0.9,
    )  # fmt: skip


def peer_inference(row: Row) -> float:
    """Seconds, or tokens per second and device where the row asks for that; it has no service under load."""
    if row.metric == "max_output_tokens_per_s":
        raise NotImplementedError("continuous batching")
    work = row.workload
    result = analysis(row, 0.7).inference(  # type: ignore[attr-defined]
        batch_size_per_gpu=int(work["batch"]), seq_len=int(work["input"]), num_tokens_to_generate=int(work["output"])
    )
    seconds = float(result["total_latency"])
    if row.metric == "latency_s":
        return seconds
    return float(work["batch"]) * float(work["output"]) / seconds / float(row.hardware["count"])


def peer_training(row: Row) -> float:
    """Seconds an iteration; where the table leaves the microbatch open, one sequence."""
    from llm_analysis.analysis import ActivationRecomputation, DSZeRO

    work, plan = row.workload, row.parallel
    mode = {"none": "NONE", "selective": "SELECTIVE", "full": "FULL"}[plan["recompute"]]
    fused = str(row.engine["name"]).startswith("llm-foundry")
    result = analysis(row, 0.5).training(  # type: ignore[attr-defined]
        batch_size_per_gpu=int(work.get("micro_batch", 1)), global_batch_size=int(work["batch"]),
        seq_len=int(work["seq"]), activation_recomputation=ActivationRecomputation[mode], flash_attn=fused,
        ds_zero=DSZeRO.STAGE_3 if plan.get("zero") == 3 else DSZeRO.NONE,
    )  # fmt: skip
    return float(result["latency_per_iter"])


def peer_errors(rows: list[Row], predict: Callable[[Row], float]) -> tuple[np.ndarray, int, str]:
    """Relative errors, failures, and the first failure's text."""
    errors, failures, first = [], 0, ""
    for row in rows:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                errors.append(predict(row) / row.value - 1.0)
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way: that is what is counted
            failures, first = failures + 1, first or f"{type(error).__name__}: {error}"
    return np.array(errors), failures, first


def figures(errors: np.ndarray, failures: int) -> dict[str, Any]:
    """A suite's errors as JSON-ready data; nulls where there is no prediction."""
    some = bool(len(errors))
    return {
        "rows": len(errors), "failures": failures,
        "mape": float(np.abs(errors).mean()) if some else None, "bias": float(errors.mean()) if some else None,
        "max": float(np.abs(errors).max()) if some else None,
    }  # fmt: skip


def line(name: str, errors: np.ndarray, failures: int, note: str = "") -> str:
    if not len(errors):
        return f"  {name:<14} no prediction, {failures} failures  {note[:80]}"
    return (
        f"  {name:<14} rows {len(errors):>4}  failures {failures:>3}  MAPE {100 * np.abs(errors).mean():6.1f} %  "
        f"bias {100 * errors.mean():+6.1f} %  max {100 * np.abs(errors).max():6.1f} %  {note[:80]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers" / "llm", help="environment of the peer")
    parser.add_argument("--json", type=Path, help="write the figures and their environment here")
    arguments = parser.parse_args()
    sys.path.append(str(installed(arguments.peers)))
    logging.disable(logging.CRITICAL)
    every = validate()
    ours = {suite.name: suite for suite in every}
    record: dict[str, Any] = {}
    for name in SUITES:
        rows = [row for row in shipped_rows() if row.suite == name]
        print(f"{name}: {ours[name].title}")
        print(line("stratoscope", ours[name].errors, len(ours[name].failures)))
        theirs = peer_errors(rows, peer_training if KINDS[name] == "train" else peer_inference)
        print(line("llm-analysis", *theirs))
        record[name] = {
            "title": ours[name].title, "stratoscope": figures(ours[name].errors, len(ours[name].failures)),
            "llm-analysis": figures(*theirs[:2]),
        }  # fmt: skip
    print("intervals: rows inside")
    for name in SUITES:
        suite = ours[name]
        inside = sum(prediction.inside for prediction in suite.predictions)
        record[name]["inside"] = {"rows": inside, "of": len(suite.predictions), "stretch": suite.error}
        print(f"  {name:<14} {inside} of {len(suite.predictions)}")
    for suite in every:
        if suite.name.startswith("C13-mem") or suite.name == "C3-fig1":
            print(f"{suite.name}: {suite.title}")
            print(line("stratoscope", suite.errors, len(suite.failures)))
            record[suite.name] = {"title": suite.title, "stratoscope": figures(suite.errors, len(suite.failures))}
    if arguments.json:
        environment = {
            "hardware": capture_hardware().model_dump(mode="json"),
            "software": capture_software().model_dump(mode="json"),
        }
        document = {"schema": 1, "peer": PEER[0], "environment": environment, "suites": record}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

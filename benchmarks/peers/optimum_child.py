"""Runs optimum-benchmark on a folder with model.onnx and config.json; prints its forward latencies as JSON.

Usage: python optimum_child.py FOLDER SECONDS    (in the peers' environment: see requirements.txt beside this file)
"""

import json
import logging
import sys

import torch.onnx.symbolic_opset14 as opset14


class _RemovedHelper:
    """Stands in for exporter helpers that optimum 1.27 imports and PyTorch has removed; nothing is exported here."""

    def __getattr__(self, name: str) -> "_RemovedHelper":
        return _RemovedHelper()

    def __call__(self, *arguments: object, **options: object) -> object:
        return lambda function: function


for _name in (
    "_attention_scale",
    "_causal_attention_mask",
    "_onnx_symbolic",
    "_type_utils",
    "jit_utils",
    "symbolic_helper",
):
    if not hasattr(opset14, _name):
        setattr(opset14, _name, _RemovedHelper())

from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, InlineConfig, ORTConfig  # noqa: E402


def main() -> None:
    """Measures steady-state forward passes in this process, one thread as the caller of this script sets it."""
    folder, seconds = sys.argv[1], float(sys.argv[2])
    logging.disable(logging.INFO)
    report = Benchmark.launch(
        BenchmarkConfig(
            name="harness_overhead",
            launcher=InlineConfig(),
            scenario=InferenceConfig(
                latency=True,
                memory=False,
                warmup_runs=20,
                duration=seconds,
                iterations=10,
                input_shapes={"batch_size": 1, "num_channels": 3, "height": 224, "width": 224},
            ),
            backend=ORTConfig(
                model=folder,
                task="image-classification",
                library="transformers",
                device="cpu",
                export=False,
                session_options={"intra_op_num_threads": 1},
            ),
        )
    )
    print("RESULT " + json.dumps(report.forward.latency.values))


if __name__ == "__main__":
    main()

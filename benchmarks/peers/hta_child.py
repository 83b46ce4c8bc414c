"""Runs HolisticTraceAnalysis on one trace; prints its answers, the time of each step and its peak memory as JSON.

Usage: python hta_child.py TRACE    (in the peers' environment: see hta-requirements.txt beside this file)
"""

import json
import logging
import os
import resource
import sys
import time
import warnings

from hta.trace_analysis import TraceAnalysis


def main() -> None:
    """Loads the trace and computes kernel breakdown, temporal breakdown and idle time."""
    path = os.path.abspath(sys.argv[1])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    times, cpu = [time.perf_counter()], time.process_time()
    analysis = TraceAnalysis(trace_files={0: path}, trace_dir=os.path.dirname(path))
    times.append(time.perf_counter())
    # As many kernels as there are, or the rest would be lumped together.
    types, kernels = analysis.get_gpu_kernel_breakdown(
        visualize=False, num_kernels=1_000_000, duration_ratio=1.0, include_memory_kernels=True
    )
    times.append(time.perf_counter())
    temporal = analysis.get_temporal_breakdown(visualize=False)
    times.append(time.perf_counter())
    idle, _ = analysis.get_idle_time_breakdown(visualize=False)
    times.append(time.perf_counter())
    cpu = time.process_time() - cpu
    steps = ("load", "kernels", "temporal", "idle")
    result = {
        "seconds": {step: after - before for step, before, after in zip(steps, times, times[1:], strict=False)},
        "cpu_seconds": cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "kernels": dict(zip(kernels["name"], kernels["sum (us)"], strict=True)),
        "types": dict(zip(types["kernel_type"], types["sum"], strict=True)),
        "temporal": {key: float(value) for key, value in temporal.iloc[0].items()},
        "idle": [[int(row.stream), row.idle_category, float(row.idle_time)] for row in idle.itertuples()],
    }
    print("RESULT " + json.dumps(result, default=float))


if __name__ == "__main__":
    main()

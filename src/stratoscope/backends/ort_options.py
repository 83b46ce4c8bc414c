"""Options of ONNX Runtime: sessions set up with ours, execution providers by short names, and what is in effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from stratoscope.backends.base import BackendOptions
from stratoscope.errors import BackendError

CPU: Final = "CPUExecutionProvider"
_OPTIMIZATION: Final = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def resolve_providers(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Full provider names for `wanted` ("cuda" or "CUDAExecutionProvider", any case); empty: the CPU.

    Raises:
        BackendError: a provider is not in this build; the message lists those that are.
    """
    by_short = {name.lower().removesuffix("executionprovider"): name for name in available}
    chosen = []
    for name in wanted or (CPU,):
        found = by_short.get(name.lower().removesuffix("executionprovider"))
        if found is None:
            raise BackendError(
                f"execution provider {name!r} is not in this build of ONNX Runtime",
                hint=f"available: {', '.join(available)}",
            )
        chosen.append(found)
    return tuple(dict.fromkeys(chosen))


def session_options(options: BackendOptions) -> Any:
    """The runtime's own options for a session."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # errors are raised; printed they would come twice
    settings.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _OPTIMIZATION[options.graph_optimization]
    )
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.inter_threads is not None:
        settings.inter_op_num_threads = options.inter_threads
        if options.inter_threads > 1:
            settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    for pool in ("intra_op", "inter_op"):
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "1" if options.spin else "0")
    return settings


def effective_options(session: Any, options: BackendOptions, workers: int | None) -> dict[str, Any]:
    """The options in effect, from the session where it tells; `worker_threads` counts what its start added."""
    settings = session.get_session_options()
    level = settings.graph_optimization_level.name
    told = {value: key for key, value in _OPTIMIZATION.items()}
    return {
        "threads": settings.intra_op_num_threads or "default",
        "inter_threads": settings.inter_op_num_threads or "default",
        "worker_threads": workers,
        "execution_mode": settings.execution_mode.name.removeprefix("ORT_").lower(),
        "graph_optimization": told.get(level, level),
        "providers": list(session.get_providers()),
        "spin": settings.get_session_config_entry("session.intra_op.allow_spinning") == "1",
    }

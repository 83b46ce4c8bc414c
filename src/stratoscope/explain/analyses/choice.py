"""Which batch size an analysis looks at, and the words for what a trace does not have."""

from __future__ import annotations

from stratoscope.explain.analyses.kernel_sites import Kernels, kernels_of
from stratoscope.explain.analyses.layer_sites import Layers, layers_of
from stratoscope.explain.analyses.leveled_trace import LEVEL_NAMES, LeveledTrace
from stratoscope.explain.analyses.result import AnalysisOptions, Missing
from stratoscope.explain.roofs import Roofs

NO_LAYERS = "no run has layer spans: profile the model at the layer level"
NO_PRIMITIVES = (
    "no run has kernel spans, nor library spans that stand for them on a CPU: profile the model at the library level, "
    "on a back end that has it"
)
NO_LAYER_TIMES = (
    "no run has the layer level as its deepest, and deeper profiling inflates layers: profile the model at the layer "
    "level"
)
NO_ROOFS = "no roofs are known: give the machine's peak rates and its memory bandwidth"


def chosen(trace: LeveledTrace, options: AnalysisOptions) -> int | None:
    """The batch size asked for, or the only one. Raises Missing where there are several, or none of the asked-for."""
    sizes = trace.batch_sizes
    if options.batch_size is not None:
        if options.batch_size not in sizes:
            raise Missing(f"no run at batch size {options.batch_size}, only at {_listed(sizes)}")
        return options.batch_size
    if len(sizes) > 1:
        raise Missing(f"the trace has batch sizes {_listed(sizes)}: say which one")
    return sizes[0] if sizes else None


def layers(trace: LeveledTrace, options: AnalysisOptions, *, timed: bool = False) -> Layers:
    """The layers at the chosen batch size; raises Missing without any, or without times where they are needed."""
    found = layers_of(trace, chosen(trace, options))
    if not found.sites:
        raise Missing(NO_LAYERS)
    if timed and not found.timed_runs:
        raise Missing(NO_LAYER_TIMES)
    return found


def kernels(trace: LeveledTrace, options: AnalysisOptions) -> Kernels:
    """The kernels, or library calls, at the chosen batch size; raises Missing without any."""
    found = kernels_of(trace, chosen(trace, options))
    if not found.sites:
        raise Missing(NO_PRIMITIVES)
    return found


def roofs(options: AnalysisOptions) -> Roofs:
    """The roofs; raises Missing without."""
    if options.roofs is None:
        raise Missing(NO_ROOFS)
    return options.roofs


def level_name(kernels: Kernels) -> str:
    """What the primitives are."""
    return "" if kernels.level is None else LEVEL_NAMES[kernels.level]


def _listed(sizes: tuple[int | None, ...]) -> str:
    return ", ".join("not told" if size is None else str(size) for size in sizes) or "none"

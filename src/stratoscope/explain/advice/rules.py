"""The rules: what each looks for, what it claims, and which change follows. Rules are data; none measures anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from stratoscope.explain.advice.changes import BFLOAT16_NUMBERS, Change
from stratoscope.explain.advice.facts import BFLOAT16_ISA, Facts
from stratoscope.explain.advice.finding import Finding, count_of, takes
from stratoscope.explain.advice.framework import framework_findings
from stratoscope.spec.advice import Question
from stratoscope.spec.record import LayerRow

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")
_NAMES_SHOWN: Final = 3
#: Parallel branches are worth a trial where the critical path is shorter than the sequence by this factor.
_LEAST_PARALLEL_GAIN: Final = 1.05


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of advice.

    Attributes:
        key: its name; findings may add what distinguishes them.
        question: which of Q1 to Q10 it answers.
        quick: whether the quick version of the advice (in `diagnose`) tries it.
        find: its findings; none where its predicate does not hold.
    """

    key: str
    question: Question
    quick: bool
    find: Callable[[Facts], Iterator[Finding]]


def findings(facts: Facts, *, quick: bool = False) -> list[Finding]:
    """What all rules find, in the order of the rules."""
    return [found for rule in RULES if rule.quick or not quick for found in rule.find(facts)]


def _of_rewrite(facts: Facts, key: str) -> tuple[tuple[str, ...], tuple[LayerRow, ...]] | None:
    names = facts.fits.get(key)
    return None if not names else (names, facts.layers_over(names))


def _lrn(facts: Facts) -> Iterator[Finding]:
    found = _of_rewrite(facts, "lrn-as-pool")
    if found is None:
        return
    names, rows = found
    share = facts.share(rows)
    yield Finding(
        "lrn-as-pool",
        "Q3",
        "Replace local response normalisation by fast operators",
        f"{count_of(len(names), 'LRN layer')} {takes(share)}; the operator's kernel raises each element to a power by "
        "itself, and the same can be computed by a pool over the channels and square roots",
        "stratoscope advise MODEL --save FILE.onnx writes the rewritten model",
        Change(graph=("lrn-as-pool",)),
        names,
        share,
    )


def _affine(facts: Facts) -> Iterator[Finding]:
    found = _of_rewrite(facts, "fold-affine")
    if found is None:
        return
    names, rows = found
    share = facts.share(rows)
    yield Finding(
        "fold-affine",
        "Q5",
        "Fold products and sums by channel into the normalisation or convolution before them",
        f"{count_of(len(names), 'layer')} only scale or shift each channel by stored numbers; the layers that they are "
        f"executed in {takes(share)}",
        "stratoscope advise MODEL --save FILE.onnx writes the rewritten model",
        Change(graph=("fold-affine",)),
        names,
        share,
    )


def _graph_level(facts: Facts) -> Iterator[Finding]:
    if facts.backend != "onnxruntime" or facts.options.shared:
        return
    for level in ("all", "extended"):
        if level != facts.options.graph_optimization:
            reorders = facts.layers_of("ReorderInput", "ReorderOutput")
            share = facts.share(reorders) if reorders else None
            why = f"; changes of layout {takes(share)}" if reorders and level == "extended" else ""
            yield Finding(
                f"graph-{level}",
                "Q8",
                f"Graph optimisation level {level}",
                f"the graph is optimised at level {facts.options.graph_optimization}{why}",
                f"--graph-optimization {level}",
                Change(options={"graph_optimization": level}),
                tuple(name for row in reorders for name in row.authored),
                share,
            )


def _threads(facts: Facts) -> Iterator[Finding]:
    if "threads" in facts.chosen or facts.cpus < 2 or facts.backend == "pytorch":
        return  # PyTorch's number of threads is the process's: two cannot be compared side by side
    for threads in sorted({1, facts.cpus // 2, facts.cpus} - {facts.threads, 0}):
        yield Finding(
            f"threads-{threads}",
            "Q8",
            f"{count_of(threads, 'thread')} inside an operator",
            f"{count_of(facts.threads, 'thread')} are used on {facts.cpus} CPUs",
            f"--threads {threads}",
            Change(options={"threads": threads}),
        )


def _branches(facts: Facts) -> Iterator[Finding]:
    gain = facts.parallel_gain
    free = not facts.chosen & {"threads", "inter_threads"}
    if facts.backend != "onnxruntime" or facts.cpus < 2 or not free or facts.options.inter_threads:
        return
    if gain is None or gain < _LEAST_PARALLEL_GAIN:
        return
    yield Finding(
        "parallel-branches",
        "Q2",
        "Run independent layers side by side",
        f"the longest chain of dependent layers is {gain:.2f} times shorter than all layers one after the other",
        f"--inter-threads 2 --threads {facts.cpus // 2}",
        Change(options={"inter_threads": 2, "threads": facts.cpus // 2}),
    )


def _spinning(facts: Facts) -> Iterator[Finding]:
    if facts.backend == "onnxruntime" and facts.threads > 1 and not facts.options.spin:
        yield Finding(
            "spin",
            "Q8",
            "Let idle worker threads spin",
            "worker threads sleep between operators, and each wake-up takes microseconds",
            "--spin (costs CPU time while it waits)",
            Change(options={"spin": True}),
        )


def _channels_last(facts: Facts) -> Iterator[Finding]:
    images = facts.operators.get("Conv", 0) + facts.operators.get("MaxPool", 0)
    if facts.backend != "pytorch" or facts.options.channels_last or not images:
        return
    pools = facts.layers_of("MaxPool", "MaxPool2d")
    share = facts.share(pools) if pools else None
    slow = f"; {count_of(len(pools), 'max-pool')} in NCHW {takes(share)}, which is slow on the CPU" if pools else ""
    yield Finding(
        "channels-last",
        "Q7",
        "Keep images with channels as the innermost dimension",
        f"convolutions and pools run in NCHW{slow}",
        "--channels-last",
        Change(options={"channels_last": True}, calls=("pytorch", "eager", "NHWC")),
        tuple(row.name for row in pools),
        share,
    )


def _packed_linear(facts: Facts) -> Iterator[Finding]:
    products = facts.layers_of("Linear", "Gemm", "MatMul")
    rows = tuple(row for row in products if row.parameters.value != 0)  # of two activations nothing can be packed
    if facts.backend != "pytorch" or facts.options.execution != "eager" or facts.options.precision or not rows:
        return
    share = facts.share(rows)
    amd = "; MKL keeps to AVX2 on AMD's CPUs" if "AMD" in facts.cpu.upper() else ""
    yield Finding(
        "packed-linear",
        "Q3",
        "Linear layers by oneDNN with packed weights",
        f"{count_of(len(rows), 'linear layer')} {takes(share)} in MKL's product{amd}",
        "replace torch.nn.Linear by torch.ops.mkldnn._linear_pointwise on weights that are packed once",
        Change(modules="packed-linear", calls=("onednn", "packed", "NCHW")),
        tuple(row.name for row in rows),
        share,
    )


def _compiled(facts: Facts) -> Iterator[Finding]:
    if facts.backend == "pytorch" and facts.options.execution == "eager":
        yield Finding(
            "compile",
            "Q5",
            "Compile the module, which fuses layers",
            "layers are dispatched one by one, and each result goes through memory",
            "--execution compile",
            Change(options={"execution": "compile"}),
        )


def _bfloat16(facts: Facts) -> Iterator[Finding]:
    able = facts.isa & BFLOAT16_ISA
    if facts.backend not in ("pytorch", "openvino") or facts.options.precision == "bfloat16" or not able:
        return
    share = facts.share(facts.layers_of(*_PRODUCTS, "Conv2d", "Linear", "Convolution", "FullyConnected"))
    yield Finding(
        "bfloat16",
        "Q6",
        "Compute in bfloat16",
        f"the CPU has products of bfloat16 ({', '.join(sorted(able))}); convolutions and products {takes(share)}",
        "--precision bfloat16",
        Change(options={"precision": "bfloat16"}, tolerance=BFLOAT16_NUMBERS),
        (),
        share,
    )


def _other_runtime(facts: Facts) -> Iterator[Finding]:
    for name in facts.other_backends:
        options: dict[str, Any] = {"precision": "float32"} if name == "openvino" else {}
        yield Finding(
            f"runtime-{name}",
            "Q10",
            f"Another runtime: {name}",
            f"{name} is installed here too",
            f"--backend {name}" + (" --precision float32" if options else ""),
            Change(backend=name, options=options),
        )


def _batch(facts: Facts) -> Iterator[Finding]:
    sweep = facts.sweep
    if sweep is None or sweep.optimal_batch is None or sweep.optimal_batch == 1:
        return
    first = next((point for point in sweep.points if point.batch_size == 1), None)
    best = next((point for point in sweep.points if point.batch_size == sweep.optimal_batch), None)
    if first is None or best is None or first.throughput.value is None or best.throughput.value is None:
        return
    gain = best.throughput.value / first.throughput.value
    yield Finding(
        "batch",
        "Q9",
        f"Batches of {best.batch_size}, where throughput matters more than latency",
        f"the sweep measured {gain:.2f} times the throughput of single inputs",
        f"--batch-size {best.batch_size}",
        Change(),
        untried="the sweep has measured it: one inference has nothing to compare it with",
    )


RULES: Final = (
    Rule("framework", "Q4", True, framework_findings),
    Rule("lrn-as-pool", "Q3", True, _lrn),
    Rule("fold-affine", "Q5", True, _affine),
    Rule("parallel-branches", "Q2", False, _branches),
    Rule("packed-linear", "Q3", False, _packed_linear),
    Rule("compile", "Q5", False, _compiled),
    Rule("bfloat16", "Q6", False, _bfloat16),
    Rule("channels-last", "Q7", True, _channels_last),
    Rule("graph-level", "Q8", True, _graph_level),
    Rule("threads", "Q8", True, _threads),
    Rule("spin", "Q8", True, _spinning),
    Rule("batch", "Q9", True, _batch),
    Rule("other-runtime", "Q10", False, _other_runtime),
)

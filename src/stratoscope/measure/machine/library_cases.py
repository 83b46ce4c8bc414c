"""Prepares one library's cases inside a worker: matrix products that are checked, and one call on one element."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]

#: Largest error of a product of uniform numbers, over the largest exact value: rounding of inputs and of sums.
_TOLERANCE: Final = {"fp64": 1e-12, "fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3, "fp8": 0.1, "int8": 0.0}
#: Rows of the product that are checked.
_ROWS: Final = 4


class CannotRun(Exception):
    """The library cannot do this, or does it wrongly; the text says what."""


def operands(dtype: str, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two n x n matrices: uniform numbers in [-1, 1), or any 8-bit integers."""
    rng = np.random.default_rng(n)
    if dtype == "int8":
        return rng.integers(-128, 128, (n, n)).astype(np.int8), rng.integers(-128, 128, (n, n)).astype(np.int8)
    kind = np.float64 if dtype == "fp64" else np.float32
    return rng.uniform(-1, 1, (n, n)).astype(kind), rng.uniform(-1, 1, (n, n)).astype(kind)


def check_product(a: NDArray[Any], b: NDArray[Any], rows: NDArray[Any], dtype: str) -> None:
    """Holds the first rows of a product against the same in double precision; raises CannotRun where it is wrong."""
    exact = a[: len(rows)].astype(np.float64) @ b.astype(np.float64)
    error = float(np.max(np.abs(rows.astype(np.float64) - exact)) / np.max(np.abs(exact)))
    if not error <= _TOLERANCE[dtype]:
        raise CannotRun(f"its {dtype} product is wrong by {error:.2g} of the largest value")


def prepare_numpy(case: dict[str, Any], threads: int) -> tuple[Call, str]:
    """NumPy's matmul into an array that is there already."""
    a, b = operands(case["dtype"], case["n"])
    if case["dtype"] not in {"fp32", "fp64"}:
        raise CannotRun(f"NumPy has no fast {case['dtype']} product")
    c = np.empty_like(a)

    def call() -> object:
        return np.matmul(a, b, out=c)

    call()
    check_product(a, b, c[:_ROWS], case["dtype"])
    return call, _openblas(threads)


def prepare_torch(case: dict[str, Any], threads: int) -> tuple[Call, str]:
    """PyTorch's mm (MKL or oneDNN by dtype), oneDNN's own product with packed weights, or one small addition."""
    import torch

    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise CannotRun(f"it runs {torch.get_num_threads()} threads where {threads} were asked for")
    torch.set_grad_enabled(False)
    if case["kind"] == "dispatch":
        one, out = torch.ones(1), torch.empty(1)
        return (lambda: torch.add(one, one, out=out)), ""
    dtype = case["dtype"]
    a, b = operands(dtype, case["n"])
    kinds = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    if dtype != "int8":
        x, y = x.to(kinds[dtype]), y.to(kinds[dtype])
    call: Call
    if case["kind"] == "packed":
        call = _onednn_packed(torch, x, y)
    elif dtype == "int8":
        call = lambda: torch._int_mm(x, y)  # noqa: E731
    else:
        out = torch.empty_like(x)
        call = lambda: torch.mm(x, y, out=out)  # noqa: E731
    result: Any = call()
    rows = result[:_ROWS]
    check_product(a, b, (rows if dtype == "int8" else rows.double()).numpy(), dtype)
    return call, _torch_implementation(torch, call)


def _onednn_packed(torch: Any, x: Any, y: Any) -> Call:
    """oneDNN's inner product with the weights in its blocked layout: as PyTorch's compiler calls it."""
    operators = torch.ops.mkldnn
    if not hasattr(operators, "_reorder_linear_weight") or not hasattr(operators, "_linear_pointwise"):
        raise CannotRun("this PyTorch has no oneDNN product with packed weights")
    packed = operators._reorder_linear_weight(y.t().contiguous(), x.shape[0])
    return lambda: operators._linear_pointwise(x, packed, None, "none", [], "")


def _torch_implementation(torch: Any, call: Call) -> str:
    """The implementation that oneDNN says it ran, else the capability that PyTorch dispatches by."""
    text = _printed(lambda: _verbosely(torch, call))
    names = re.findall(r"exec,cpu,(?:matmul|inner_product|gemm_api),([^,]*)", text)
    isa = re.search(r"info,cpu,isa:(.*)", text)
    if names:
        return f"oneDNN {names[-1] or 'gemm'}" + (f" ({isa.group(1).strip()})" if isa else "")
    return f"no oneDNN call (MKL or PyTorch's own), dispatch by {torch.backends.cpu.get_cpu_capability()}"


def _verbosely(torch: Any, call: Call) -> None:
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        call()


def _printed(call: Call) -> str:
    """What C code prints on standard output meanwhile."""
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            call()
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace")


def prepare_onnxruntime(case: dict[str, Any], threads: int) -> tuple[Call, str]:
    """One MatMul (or MatMulInteger, int8) with constant weights, inputs and output bound; or one small Add."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    dispatch = case["kind"] == "dispatch"
    a, b = (np.ones((1, 1), np.float32),) * 2 if dispatch else operands(case["dtype"], case["n"])
    if not dispatch and case["dtype"] == "int8":
        a = (a.view(np.uint8) & 0x7F).astype(np.uint8)  # u8 times s8; 7 bits, so that no kernel saturates
    model = _product_model("Add" if dispatch else "MatMulInteger" if case["dtype"] == "int8" else "MatMul", a, b)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(a)
    integer = not dispatch and case["dtype"] == "int8"
    y = onnxruntime.OrtValue.ortvalue_from_shape_and_type(a.shape, np.int32 if integer else a.dtype)
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)

    def call() -> object:
        return session.run_with_iobinding(binding)

    call()
    if not dispatch:
        check_product(a, b, y.numpy()[:_ROWS], case["dtype"])
    return call, "MLAS; it does not tell its instruction set" if not dispatch else ""


def _product_model(operator: str, a: NDArray[Any], b: NDArray[Any]) -> bytes:
    """A model of one node: y = operator(x, constant b)."""
    from onnx import TensorProto, helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(a.dtype)
    out = TensorProto.INT32 if operator == "MatMulInteger" else kind
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, a.shape)],
        [helper.make_tensor_value_info("y", out, a.shape)],
        [numpy_helper.from_array(b, "b")],
    )
    opset = [helper.make_opsetid("", 13)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def _openblas(threads: int) -> str:
    """The kernels that NumPy's OpenBLAS chose, read from the library itself, after checking its thread count."""
    path = _loaded_library("openblas")
    if path is None:
        return "NumPy's BLAS does not tell its kernels"
    library = ctypes.CDLL(path)
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
        core = getattr(library, f"{prefix}openblas_get_corename{suffix}", None)
        count = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
        if core is not None and count is not None:
            if count() != threads:
                raise CannotRun(f"OpenBLAS runs {count()} threads where {threads} were asked for")
            core.restype = ctypes.c_char_p
            return f"OpenBLAS, kernels for {core().decode()}"
    return "OpenBLAS does not tell its kernels"


def _loaded_library(name: str) -> str | None:
    """Path of the first library mapped into this process whose file name holds `name`."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if line.count(" ") >= 5 and "/" in line]
    except OSError:
        return None
    return next((path for path in paths if name in os.path.basename(path)), None)


#: What prepares a case, by library.
PREPARE: Final[dict[str, Callable[[dict[str, Any], int], tuple[Call, str]]]] = {
    "numpy": prepare_numpy,
    "torch": prepare_torch,
    "onnxruntime": prepare_onnxruntime,
}

"""Finds versions and build flags of the libraries that take part in a run, without importing what is expensive.

What is found must not depend on what happens to be imported already: equal installations give equal manifests.
"""

from __future__ import annotations

import ast
import importlib.util
from importlib import metadata
from pathlib import Path

from stratoscope.host.told import Told

#: What drives every run, whatever the framework.
DRIVERS = ("stratoscope", "numpy", "mlcommons-loadgen")

#: Distributions that install the same module under other names.
_VARIANTS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-training", "onnxruntime-directml"),
    "torch": ("pytorch",),
}


def package_versions(frameworks: tuple[str, ...], told: Told) -> dict[str, str]:
    """Distribution to version, of the frameworks and of what drives the run; a missing one is noted in `told`."""
    versions: dict[str, str] = {}
    for name in dict.fromkeys((*DRIVERS, *frameworks)):
        for candidate in (name, *_VARIANTS.get(name, ())):
            try:
                versions[candidate] = metadata.version(candidate)
                break
            except metadata.PackageNotFoundError:
                continue
        else:
            told.value(f"packages.{name}", None, "not installed")
    return dict(sorted(versions.items()))


def build_information(frameworks: tuple[str, ...], told: Told) -> dict[str, dict[str, str]]:
    """Library to its build flags: NumPy always, ONNX Runtime and PyTorch where they are among the frameworks."""
    builds = {"numpy": _numpy_build()}
    if "onnxruntime" in frameworks:
        build = _onnxruntime_build()
        if told.value("builds.onnxruntime", build, "onnxruntime is not installed") is not None and build is not None:
            builds["onnxruntime"] = build
    if "torch" in frameworks:
        build = _torch_build()
        if told.value("builds.torch", build, "torch is not installed") is not None and build is not None:
            builds["torch"] = build
    return builds


def _numpy_build() -> dict[str, str]:
    """BLAS name, version and configuration, and the compiler. Build machine's paths are left out."""
    import numpy as np

    config = np.show_config(mode="dicts")
    found: dict[str, str] = {}
    if isinstance(config, dict):
        blas = config.get("Build Dependencies", {}).get("blas", {})
        compiler = config.get("Compilers", {}).get("c", {})
        pairs = {
            "blas": blas.get("name"),
            "blas version": blas.get("version"),
            "blas configuration": blas.get("openblas configuration"),
            "compiler": f"{compiler.get('name', '')} {compiler.get('version', '')}".strip(),
        }
        found = {name: " ".join(str(value).split()) for name, value in pairs.items() if value}
    return found


def _onnxruntime_build() -> dict[str, str] | None:
    """ONNX Runtime's own build string taken apart: branch, revision, build type. None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    found = {"device": str(onnxruntime.get_device())}
    text = str(onnxruntime.get_build_info()) if hasattr(onnxruntime, "get_build_info") else ""
    for pair in text.removeprefix("ORT Build Info:").split(","):
        name, separator, value = pair.partition("=")
        if separator:
            found[name.strip()] = value.strip()
    return found


def _torch_build() -> dict[str, str] | None:
    """What torch/version.py states, read and not run: importing torch takes seconds. None where it is not installed."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "version.py"
    found: dict[str, str] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if isinstance(value, ast.Constant) and value.value is not None:
            found |= {target.id: str(value.value) for target in targets if isinstance(target, ast.Name)}
    return {name.strip("_"): value for name, value in found.items()}

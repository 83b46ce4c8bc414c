"""The model manifest, and the model as a back end receives it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from stratoscope.spec.base import Document, Manifest, SemVer
from stratoscope.spec.steps import POST_OPS, PRE_OPS, Step, check_order


class TensorSpec(Document):
    """An input or output: `shape` holds integers, or names for dimensions that are free.

    The name "..." stands for dimensions whose number is not told. `steps` turn a stored sample into this input, or
    this output into an answer; batch axis apart.
    """

    name: str
    element_type: str = Field(description="NumPy name of the type: float32, int64, ...")
    shape: tuple[PositiveInt | str, ...]
    low: float | None = Field(
        default=None, description="smallest value of a generated input (integers: token ids, masks)"
    )
    high: float | None = Field(default=None, description="largest value of a generated input, exclusive")
    modality: str | None = Field(default=None, description="what it is: image, text, probability, boxes, ...")
    steps: tuple[Step, ...] = Field(
        default=(), description="declared pre-processing (inputs), post-processing (outputs)"
    )


class FrameworkConstraint(Document):
    """The framework that the model was written for, with a version constraint (">=1.12.0 <2.0")."""

    name: str
    version: str | None = None


class ModelManifest(Manifest):
    """What the model is: its graph and digest, inputs and outputs, declared pre- and post-processing."""

    schema_: Literal["stratoscope/model/1"] = Field(default="stratoscope/model/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset(
        {"description", "license", "author", "path", "references", "source", "framework", "attributes"}
    )

    id: str
    version: SemVer = "1.0.0"
    task: str | None = None
    description: str = ""
    license: str | None = None
    author: str | None = None
    references: tuple[str, ...] = ()
    path: str | None = Field(default=None, description="the graph's file; relative to the manifest's folder")
    sha256: str | None = Field(default=None, description="digest of the graph's file and of its external data")
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    weights: Literal["trained", "seeded", "unknown"] = "unknown"
    weights_seed: int | None = None
    source: str | None = Field(default=None, description="where the graph's file can be had; not fetched unless asked")
    framework: FrameworkConstraint | None = None
    attributes: dict[str, str] = Field(default={}, description="whatever else describes it; decides nothing")

    @model_validator(mode="after")
    def _steps_in_place(self) -> Self:
        for tensor in self.inputs:
            check_order(tensor.steps, PRE_OPS, f"pre-processing of input {tensor.name!r}")
        for tensor in self.outputs:
            check_order(tensor.steps, POST_OPS, f"post-processing of output {tensor.name!r}")
        return self


@dataclass(frozen=True, slots=True)
class LoadableModel:
    """A model that a back end can load: the manifest with all free input dimensions bound, and its file or object.

    Attributes:
        manifest: inputs have integer shapes only (batch size and `--shape` applied).
        path: an ONNX file, or None where `module` stands in.
        module: a framework object (a `torch.nn.Module`), or None.
        batch_axis: axis of the inputs that is the batch, or None where the batch is fixed in the graph.
    """

    manifest: ModelManifest
    path: Path | None = None
    module: Any = None
    batch_axis: int | None = 0

    @property
    def name(self) -> str:
        """The manifest's id."""
        return self.manifest.id

    def bound_shapes(self) -> dict[str, tuple[int, ...]]:
        """Input name -> its shape, all dimensions bound."""
        return {spec.name: tuple(int(size) for size in spec.shape) for spec in self.manifest.inputs}

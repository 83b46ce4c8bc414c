"""The dataset manifest: which samples a run reads, where they come from, and the digest that pins them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from stratoscope.spec.base import Document, Manifest, SemVer
from stratoscope.spec.steps import RelativePath

Sha256 = Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-f]{64}$")]


class Source(Document):
    """A file of the dataset, with where it can be had; nothing is fetched unless asked for."""

    name: str
    url: str | None = None
    sha256: Sha256 | None = None
    size_bytes: NonNegativeInt | None = None


class GeneratedInputs(Document):
    """Inputs drawn from a seed, within each input's `low` and `high`, instead of stored samples."""

    seed: int = Field(default=0, ge=0, lt=2**64)
    distribution: Literal["uniform", "normal"] = "uniform"


class DatasetManifest(Manifest):
    """The data of a run (DLSpec's dataset manifest): stored samples, or generated ones."""

    schema_: Literal["stratoscope/dataset/1"] = Field(default="stratoscope/dataset/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset(
        {"description", "name", "license", "author", "references", "path", "labels_path"}
    )

    id: str
    version: SemVer = "1.0.0"
    name: str = ""
    description: str = ""
    license: str | None = None
    author: str | None = None
    references: tuple[str, ...] = ()
    modality: str | None = Field(default=None, description="image, text, audio, ...")
    split: str | None = Field(default=None, description="train, validation, test, ...")
    samples: PositiveInt | None = None
    classes: PositiveInt | None = None
    sources: tuple[Source, ...] = ()
    path: RelativePath | None = Field(default=None, description="the stored samples; relative to the manifest's folder")
    labels_path: RelativePath | None = Field(default=None, description="one label a line; relative likewise")
    sha256: Sha256 | None = Field(default=None, description="digest of the stored samples and labels")
    generated: GeneratedInputs | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.generated is not None and (self.sources or self.path or self.sha256):
            raise ValueError("a dataset is either generated or stored, not both")
        return self

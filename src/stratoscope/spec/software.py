"""The software manifest: operating system, libraries and build flags, and the environment that steers threads."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from stratoscope.spec.base import Document, Manifest, SemVer


class OperatingSystem(Document):
    """Distribution, kernel and C library. A field that is absent was not told: see the manifest's `unavailable`."""

    name: str | None = Field(default=None, description="distribution's id: debian, ubuntu, ...")
    version: str | None = None
    kernel: str | None = Field(default=None, description="release of the kernel")
    libc: str | None = None
    transparent_hugepages: str | None = Field(default=None, description="always, madvise or never")


class Container(Document):
    """The image that everything runs in."""

    image: str
    digest: str | None = None


class PythonRuntime(Document):
    """The interpreter."""

    implementation: str | None = None
    version: str | None = None
    compiler: str | None = None
    free_threaded: bool | None = None


class SoftwareManifest(Manifest):
    """The software of a run (DLSpec's software manifest), captured or written by hand.

    A field that is absent is not known; in a captured manifest `unavailable` says why, by the field's path
    ("os.libc", "packages.torch").
    """

    schema_: Literal["stratoscope/software/1"] = Field(default="stratoscope/software/1", alias="schema")
    not_content: ClassVar[frozenset[str]] = frozenset({"id", "name", "version", "description", "unavailable"})

    id: str = "captured"
    name: str = ""
    version: SemVer = "1.0.0"
    description: str = ""
    container: Container | None = None
    os: OperatingSystem = OperatingSystem()
    python: PythonRuntime = PythonRuntime()
    packages: dict[str, str] = Field(default={}, description="distribution -> version, of what takes part in the run")
    builds: dict[str, dict[str, str]] = Field(
        default={}, description="library -> how it was built: its BLAS, build type, revision, CUDA version"
    )
    env: dict[str, str] = Field(default={}, description="variables that steer threads, memory and libraries, where set")
    unavailable: dict[str, str] = Field(default={}, description="path of a field that is absent -> why")

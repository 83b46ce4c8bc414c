"""A suite of bricks: made from models, kept in one file, read safely, and known by content on every machine."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from stratoscope.errors import ModelError, StoreError
from stratoscope.graph.brick_model import MAX_SKELETON_BYTES, key_of, skeleton
from stratoscope.graph.bricks import Brick, bricks_of
from stratoscope.graph.cuts import Rule, nominal_seconds
from stratoscope.graph.onnx_reader import read_graph
from stratoscope.measure.runnable import RunnableBrick
from stratoscope.spec.base import Document
from stratoscope.spec.model import LoadableModel
from stratoscope.spec.options import BackendOptions
from stratoscope.spec.performance import Candidate, Part

GraphKind = Literal["executed", "authored"]
Progress = Callable[[str, float | None], None]

SCHEMA: Final = "stratoscope/suite/1"
_INDEX: Final = "suite.json"
_MAX_INDEX_BYTES: Final = 1 << 28
_MAX_BRICKS: Final = 1 << 17
_HINT: Final = "`stratoscope compose build` writes suites"
Key = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class SuiteBrick(Document):
    """A brick of a suite: what it is, about how long it takes, and why there is no network of it."""

    part: Part
    nominal_s: float
    problem: str | None = None


class Place(Document):
    """A brick at one place of a model (see explain/compose/estimate.py)."""

    key: Key
    times: int = 1
    needs: tuple[int, ...] = ()


class SuiteModel(Document):
    """A model as a sequence of bricks."""

    name: str
    batch_size: int | None = None
    layers: int
    places: tuple[Place, ...]


class SuiteIndex(Document):
    """What a suite holds. `candidate` is how its bricks are run: those of an executed graph as they are."""

    schema_: Literal["stratoscope/suite/1"] = Field(default="stratoscope/suite/1", alias="schema")
    created_at: datetime
    graph: GraphKind
    rule: Rule
    granularity: int
    candidate: Candidate
    anonymous: bool = False
    models: tuple[SuiteModel, ...]
    bricks: dict[Key, SuiteBrick]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite in memory: its index, and the skeletons of its bricks by key."""

    index: SuiteIndex
    skeletons: Mapping[str, bytes]

    def groups(self, wanted: Callable[[str], bool] = lambda key: True) -> list[list[RunnableBrick]]:
        """Each model's bricks in its order, for `sequence.measure_groups`; every brick is wanted in one group only.

        Where a brick is wanted, the brick before it runs too, so that caches are as in the model; the weights of all
        other places of the model are its `further_bytes`, told with the first brick that runs.
        """
        taken: set[str] = set()
        groups: list[list[RunnableBrick]] = []
        for model in self.index.models:
            order = list(dict.fromkeys(place.key for place in model.places))
            new = {key for key in order if key not in taken and wanted(key)}
            before = dict(zip(order[1:], order, strict=False))
            runs = new | {before[key] for key in new if key in before}
            last = model.places[-1].key if model.places else None
            group = [self._runnable(key, wanted=key in new, last=key == last) for key in order if key in runs]
            if group:
                every = sum(place.times * self._parameter_bytes(place.key) for place in model.places)
                once = sum(self._parameter_bytes(key) for key in runs)
                group[0] = replace(group[0], further_bytes=max(0, every - once))
            groups.append(group)
            taken |= new
        return groups

    def _parameter_bytes(self, key: str) -> int:
        return self.index.bricks[key].part.parameter_bytes or 0

    def _runnable(self, key: str, *, wanted: bool, last: bool) -> RunnableBrick:
        brick = self.index.bricks[key]
        return RunnableBrick(brick.part, self.skeletons.get(key, b""), brick.problem, wanted, last=last)


def build_suite(
    models: Sequence[LoadableModel],
    *,
    graph: GraphKind = "executed",
    rule: Rule = "tensor",
    granularity: int = 1,
    least_s: float | None = None,
    anonymous: bool = False,
    library: str = "onnxruntime",
    progress: Progress | None = None,
) -> Suite:
    """Cuts models into bricks; equal bricks of all models are one.

    Args:
        graph: "executed": the graph as this ONNX Runtime optimises it at level all, so that fusion and layout survive
            the cuts; its bricks run where the same operators exist. "authored": the graph as written, for any runtime.
        rule, granularity, least_s: see `graph.cuts.cut`.
        library: that runs the bricks: "onnxruntime", or "pytorch" for bricks of an authored graph.
        anonymous: models are called model-1, model-2, ...; bricks never carry names.

    Raises:
        ModelError, BackendError: a model cannot be read, the runtime cannot load it, or the library cannot run it.
    """
    bricks: dict[str, SuiteBrick] = {}
    skeletons: dict[str, bytes] = {}
    rows: list[SuiteModel] = []
    for number, model in enumerate(models):
        if progress is not None:
            progress(model.name, number / len(models))
        row = _cut(model, graph, rule, granularity, least_s, bricks, skeletons)
        rows.append(row.model_copy(update={"name": f"model-{number + 1}"}) if anonymous else row)
    index = SuiteIndex(
        created_at=datetime.now(UTC),
        graph=graph,
        rule=rule,
        granularity=granularity,
        candidate=candidate_of(graph, library),
        anonymous=anonymous,
        models=tuple(rows),
        bricks=bricks,
    )
    return Suite(index, skeletons)


def candidate_of(graph: GraphKind, library: str = "onnxruntime") -> Candidate:
    """How a library runs bricks of this kind of graph; ONNX Runtime does not optimise an executed one once more.

    Raises ModelError for PyTorch and bricks of a graph that ONNX Runtime made.
    """
    executed = graph == "executed"
    if library == "pytorch":
        if executed:
            raise ModelError("PyTorch cannot run what ONNX Runtime made of a model", hint="use --graph authored")
        return Candidate(library="pytorch", implementation="eager", version=metadata.version("torch"))
    return Candidate(
        library="onnxruntime",
        implementation="graph=off" if executed else "graph=all",
        layout="opaque" if executed else "NCHW",
        version=metadata.version("onnxruntime"),
    )


def _cut(
    model: LoadableModel,
    kind: GraphKind,
    rule: Rule,
    granularity: int,
    least_s: float | None,
    bricks: dict[str, SuiteBrick],
    skeletons: dict[str, bytes],
) -> SuiteModel:
    if model.path is None:
        raise ModelError(f"model {model.name!r} has no ONNX file to cut", hint="export it to ONNX")
    if kind == "authored":
        graph = read_graph(model.path, model.bound_shapes())
    else:
        from stratoscope.backends.onnxruntime import OnnxRuntimeBackend

        with tempfile.TemporaryDirectory(prefix="stratoscope-executed-") as folder:
            path = OnnxRuntimeBackend().executed_graph(model, BackendOptions(threads=1), Path(folder))
            if path is None:
                raise ModelError(f"ONNX Runtime wrote no executed graph of {model.name!r}", hint="use --graph authored")
            graph = read_graph(path, model.bound_shapes())
    wall = bricks_of(graph, rule, granularity=granularity, least_s=least_s)
    maker: dict[str, int] = {}
    places = []
    for number, use in enumerate(wall.uses):
        brick = use.brick
        needs = sorted({maker[tensor.name] for tensor in brick.inputs if tensor.name in maker})
        places.append(Place(key=brick.key, times=use.times, needs=tuple(needs)))
        maker.update((tensor.name, number) for tensor in brick.outputs)
        if brick.key not in bricks:
            bricks[brick.key], content = _described(brick)
            if content is not None:
                skeletons[brick.key] = content
    axis = model.batch_axis
    batch = None if axis is None or not model.manifest.inputs else int(model.manifest.inputs[0].shape[axis])
    return SuiteModel(name=model.name, batch_size=batch, layers=len(graph.layers), places=tuple(places))


def _described(brick: Brick) -> tuple[SuiteBrick, bytes | None]:
    problem, content = brick.problem, None
    if problem is None:
        try:
            content = skeleton(brick)
        except (ModelError, ValueError, TypeError) as error:
            problem = " ".join(str(error).split())[:300]
    work = brick.work
    known = not brick.unknown_work
    part = Part(
        digest=brick.key,
        kind="brick",
        slug=brick.slug,
        operators=brick.operators,
        flops=work.flops if known else None,
        flops_valid=work.flops_valid if known else None,
        bytes=work.bytes_read + work.bytes_written + work.parameter_bytes if known else None,
        parameter_bytes=work.parameter_bytes if known else None,
        element_type=brick.outputs[0].element_type if brick.outputs else None,
    )
    nominal = sum(nominal_seconds(layer) for layer in brick.layers)
    return SuiteBrick(part=part, nominal_s=nominal, problem=problem), content


def write_suite(suite: Suite, file: Path) -> None:
    """Writes the suite as one file, in one step. Raises StoreError where that is not possible."""
    folder = file.absolute().parent
    try:
        descriptor, part = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.", suffix=".part")
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}", hint="choose another folder") from error
    try:
        with os.fdopen(descriptor, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_INDEX, suite.index.model_dump_json(by_alias=True))
            for key, content in sorted(suite.skeletons.items()):
                archive.writestr(_entry(key), content)
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, file)
    except OSError as error:
        Path(part).unlink(missing_ok=True)
        raise StoreError(f"cannot write {file}: {error.strerror}", hint="choose another folder") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_suite(file: Path) -> Suite:
    """The suite in a file. Only the entries that its index names are read, each within a bound, none is unpacked; each
    brick is checked to be the one that its key names.

    Raises:
        StoreError: the file is missing, no suite, damaged, too large, or of a newer version.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            index = _index(archive, file)
            wanted = [key for key, brick in index.bricks.items() if brick.problem is None]
            held = {key: _bounded(archive, _entry(key), MAX_SKELETON_BYTES, file) for key in wanted}
    except FileNotFoundError:
        raise StoreError(f"there is no suite {file}", hint=_HINT) from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise StoreError(f"{file} is no suite, or damaged: {error}", hint=_HINT) from error
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror or error}", hint=_HINT) from error
    for key, content in held.items():
        _check_key(key, content, file)
    return Suite(index, held)


def _check_key(key: str, content: bytes, file: Path) -> None:
    """Raises StoreError where a brick is not the one that its key names: its times would be taken for another's."""
    try:
        found = key_of(content)
    except ModelError as error:
        raise StoreError(f"{file}: the brick {key} cannot be read: {error.message}", hint=_HINT) from error
    if found != key:
        raise StoreError(f"{file}: the brick {key} is another one, {found}", hint="do not trust this suite")


def _index(archive: zipfile.ZipFile, file: Path) -> SuiteIndex:
    content = _bounded(archive, _INDEX, _MAX_INDEX_BYTES, file)
    try:
        schema = json.loads(content).get("schema")
        if schema != SCHEMA:
            raise StoreError(f"{file} says that it is {schema!r}, not {SCHEMA}", hint="upgrade Stratoscope")
        index = SuiteIndex.model_validate_json(content)
    except (ValidationError, ValueError, AttributeError, RecursionError) as error:
        where = " ".join(str(error).split())[:200]
        raise StoreError(f"the index of {file} does not validate: {where}", hint=_HINT) from error
    if len(index.bricks) > _MAX_BRICKS:
        raise StoreError(f"{file} has {len(index.bricks)} bricks: at most {_MAX_BRICKS}", hint=_HINT)
    for model in index.models:
        for number, place in enumerate(model.places):
            if place.key not in index.bricks:
                raise StoreError(f"{file}: {model.name} has a brick that is not in it: {place.key}", hint=_HINT)
            if any(not 0 <= need < number for need in place.needs):
                raise StoreError(f"{file}: a brick of {model.name} needs one that comes after it", hint=_HINT)
    for key, brick in index.bricks.items():
        if brick.part.digest != key:
            raise StoreError(f"{file}: the brick {key} describes another, {brick.part.digest}", hint=_HINT)
    return index


def _bounded(archive: zipfile.ZipFile, name: str, most: int, file: Path) -> bytes:
    try:
        with archive.open(name) as entry:
            content = entry.read(most + 1)
    except KeyError:
        raise StoreError(f"{file} has no {name}", hint=_HINT) from None
    except zlib.error as error:
        raise StoreError(f"{file} is damaged: {name} does not unpack ({error})", hint=_HINT) from error
    if len(content) > most:
        raise StoreError(f"{file}: {name} is larger than {most} bytes", hint=_HINT)
    return content


def _entry(key: str) -> str:
    return f"bricks/{key.removeprefix('sha256:')}.skeleton"

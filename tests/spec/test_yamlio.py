"""Facts about documents as text: they round-trip, errors name key, line and way out, hostile text is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratoscope.errors import SpecError
from stratoscope.spec.base import Document
from stratoscope.spec.dataset import DatasetManifest
from stratoscope.spec.hardware import HardwareManifest
from stratoscope.spec.model import ModelManifest
from stratoscope.spec.scenario import ScenarioManifest
from stratoscope.spec.software import SoftwareManifest
from stratoscope.spec.yaml_text import read_text, write_yaml
from stratoscope.spec.yamlio import KINDS, dump_yaml, json_schema, load_as, load_document, schema_tag, validate

MODEL = """
schema: stratoscope/model/1
id: resnet50
version: 1.5.0
description: a residual network
inputs:
  - name: data
    element_type: float32
    shape: [batch, 3, 224, 224]
    steps:
      - {op: decode, color_mode: RGB}
      - {op: resize, height: 256, width: 256, keep_aspect_ratio: true}
      - {op: crop, height: 224, width: 224}
      - op: normalize
        mean: [0.485, 0.456, 0.406]
        std: [0.229, 0.224, 0.225]
        rescale: 3.92156862745098e-3
      - {op: layout, to: CHW}
outputs:
  - name: prob
    element_type: float32
    shape: [batch, 1000]
    steps: [{op: softmax}, {op: argsort, k: 5, labels: synset.txt}]
"""


def error_of(text: str | Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_document(text)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_tag_chooses_the_class():
    model = load_document(MODEL)
    assert isinstance(model, ModelManifest)
    assert [step.op for step in model.inputs[0].steps] == ["decode", "resize", "crop", "normalize", "layout"]
    assert isinstance(load_document("schema: stratoscope/scenario/1\nkind: server\ntarget_qps: 10"), ScenarioManifest)


def test_a_file_a_text_and_json_give_the_same_document(tmp_path: Path):
    path = tmp_path / "model.yaml"
    path.write_text(MODEL, encoding="utf-8-sig")
    from_text = load_document(MODEL)
    assert load_document(path) == load_document(str(path)) == from_text
    assert load_document(from_text.model_dump_json(by_alias=True)) == from_text


def test_yaml_round_trips_every_kind_with_defaults_and_with_content():
    documents: list[Document] = [
        load_document(MODEL),
        HardwareManifest(unavailable={"cpu.governor": "no cpufreq: a guest"}),
        SoftwareManifest(env={"OMP_NUM_THREADS": "1"}, packages={"numpy": "2.0"}),
        DatasetManifest(id="digits", samples=360, sha256="sha256:" + "0" * 64),
        ScenarioManifest(target_qps=1e-3, max_duration_s=1e20),
    ]
    for document in documents:
        assert load_document(dump_yaml(document)) == document


@given(st.text(min_size=1), st.text(), st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-300, 1e300))
def test_any_text_and_number_survives_yaml(key: str, text: str, low: float, qps: float):
    manifest = ModelManifest(
        id=text,
        description=text,
        attributes={key: text},
        inputs=({"name": key, "element_type": "float32", "shape": ("n", 1), "low": low},),  # type: ignore[arg-type]
    )
    assert load_document(dump_yaml(manifest)) == manifest
    scenario = ScenarioManifest(target_qps=qps, description=key)
    assert load_document(dump_yaml(scenario)) == scenario


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**18), 10**18)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_plain_data_survives_yaml(data: object):
    assert read_text(write_yaml({"k": data})).data == {"k": data}


@pytest.mark.parametrize(
    "text", ["no", "yes", "on", "1e3", "0x1f", "0o17", "017", "12:30:45", "2024-01-01", "~", "", ".5", "-"]
)
def test_text_that_looks_like_something_else_stays_text(text: str):
    assert load_document(dump_yaml(ModelManifest(id=text))) == ModelManifest(id=text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("no", "no"),
        ("12:30", "12:30"),
        ("true", True),
        ("~", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object):
    assert read_text(f"k: {text}").data == {"k": value}


def test_dates_are_text_and_records_read_them():
    assert read_text("k: 2024-05-06T07:08:09Z").data == {"k": "2024-05-06T07:08:09Z"}


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_key():
    error = error_of(MODEL.replace("description: a", "descripton: a"))
    assert "unknown key 'descripton'" in error.message
    assert "line 5" in error.message
    assert error.hint == "did you mean 'description'?"


def test_an_unknown_key_deep_inside_is_compared_with_the_keys_of_its_own_place():
    error = error_of(MODEL.replace("{op: decode, color_mode: RGB}", "{op: decode, colour_mode: RGB}"))
    assert "'colour_mode' in inputs[0].steps[0]" in error.message
    assert "line 11" in error.message
    assert error.hint == "did you mean 'color_mode'?"
    nested = error_of(
        MODEL.replace("element_type: float32\n    shape: [batch, 3", "elementtype: x\n    shape: [batch, 3")
    )
    assert nested.message.count("more") == 1  # the missing element_type comes on top


def test_a_key_that_is_near_to_nothing_lists_the_valid_ones():
    error = error_of("schema: stratoscope/scenario/1\nzzzz: 1")
    assert error.hint is not None
    assert error.hint.startswith("valid keys: batch_size,")
    assert "schema_" not in error.hint


def test_a_wrong_value_is_named_with_its_line():
    error = error_of("schema: stratoscope/scenario/1\nkind: server\nmin_duration_s: -3\n")
    assert "line 3" in error.message
    assert "min_duration_s" in error.message
    assert "greater than 0" in error.message


def test_unknown_tags_list_the_known_ones():
    for text in ("schema: stratoscope/modle/1", "schema: stratoscope/model/99", "schema: [1]", "id: x\nversion: 1.0.0"):
        assert "stratoscope/reference/1" in str(error_of(text).hint)


def test_a_document_of_another_kind_is_refused():
    with pytest.raises(SpecError, match="this is a stratoscope/scenario/1, and a stratoscope/model/1 is needed"):
        load_as(ModelManifest, "schema: stratoscope/scenario/1")
    assert load_as(ScenarioManifest, "schema: stratoscope/scenario/1") == ScenarioManifest()


def test_plain_data_is_validated_with_the_same_errors():
    with pytest.raises(SpecError, match=r"--set: unknown key 'bach_size'") as caught:
        validate(ScenarioManifest, {"bach_size": 2}, "--set")
    assert caught.value.hint == "did you mean 'batch_size'?"


def billion_laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "schema: stratoscope/model/1\nid: x\n" + "\n".join(lines)


HOSTILE = {
    "billion laughs": (billion_laughs(), "anchors expand"),
    "mapping bomb": (
        "a: &a {x: 1}\n"
        + "".join(
            f"b{i}: &b{i} {{p: *{'a' if not i else f'b{i - 1}'}, q: *{'a' if not i else f'b{i - 1}'}}}\n"
            for i in range(20)
        ),
        "anchors expand",
    ),
    "cycle": ("schema: stratoscope/model/1\nid: &x [*x]", "contains itself"),
    "deep flow": ("k: " + "[" * 5000, "nested deeper"),
    "deep block": ("".join(" " * i + "k:\n" for i in range(500)), "nested deeper"),
    "deep anchors": ("a: &a0 [1]\n" + "".join(f"b{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 60)), "anchors expand"),
    "many values": ("k: [" + "1," * 60_000 + "]", "more than 50000"),
    "too large": ("k: '" + "x" * (1 << 20) + "'", "larger than"),
    "python object": ("k: !!python/object/apply:os.system ['true']", "not allowed"),
    "python name": ("k: !!python/name:os.system", "not allowed"),
    "binary": ("k: !!binary aGk=", "not allowed"),
    "set": ("k: !!set {a, b}", "not allowed"),
    "own tag": ("k: !mine x", "not allowed"),
    "forced int": ("k: !!int x", "no usable number"),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "merge keys"),
    "duplicate key": ("id: a\nid: b", "stands twice"),
    "number as key": ("1: a", "a key is text"),
    "list as key": ("[1, 2]: a", "a key is text"),
    "huge integer": ("k: " + "9" * 5000, "no usable number"),
    "huge float": ("k: 1e999", "no usable number"),
    "two documents": ("a: 1\n---\nb: 2", "cannot be read"),
    "unknown anchor": ("a: *nope", "cannot be read"),
    "bad indentation": ("a:\n  b: 1\n c: 2", "cannot be read"),
    "control character": ("a: \x07", "cannot be read"),
    "tab": ("a:\n\tb: 1", "cannot be read"),
    "infinity": ("schema: stratoscope/scenario/1\nmin_duration_s: .inf", "min_duration_s"),
    "scalar": ("just: text\n".replace("just: ", ""), "no document"),
    "list": ("- a\n- b", "no document"),
    "empty": ("", "no document"),
    "json duplicate": ('{"schema": 1, "schema": 2}', "stands twice"),
    "json nan": ('{"schema": NaN}', "is not JSON"),
    "json overflow": ('{"schema": 1e999}', "number"),
    "json huge integer": ('{"schema": ' + "9" * 5000 + "}", "number"),
    "json deep": ('{"a":' * 100_000, "nested too deeply"),
    "half a pair": ('k: "\\ud800"', "surrogate"),
    "half a pair as key": ('"\\ud800": 1', "surrogate"),
    "json half a pair": ('{"a": "\\ud800"}', "surrogate"),
    "json cut off": ('{"schema": "stratoscope/mo', "line 1"),
}


@pytest.mark.parametrize(
    "text",
    [
        "k: !" + "a" * 100_000,
        "a: *" + "b" * 100_000,
        "? " + "k" * 100_000 + "\n: 1\n? " + "k" * 100_000 + "\n: 1",
        "schema: stratoscope/model/1\n? " + "k" * 100_000 + "\n: 1",
        "schema: " + "s" * 100_000,
        '{"' + "k" * 100_000 + '": 1, "' + "k" * 100_000 + '": 2}',
        "schema: stratoscope/scenario/1\nkind: " + "x" * 100_000,
    ],
)
def test_a_message_does_not_repeat_a_long_text(text: str):
    assert len(str(error_of(text))) < 1500


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_one_line(name: str):
    text, expected = HOSTILE[name]
    assert expected in str(error_of(text))


def test_anchors_within_the_bound_are_read():
    text = "schema: stratoscope/model/1\nid: x\nreferences: &r [a, b]\nattributes: {note: &n hi, again: *n}"
    assert load_document(text) == ModelManifest(id="x", references=("a", "b"), attributes={"note": "hi", "again": "hi"})


def test_a_text_that_python_would_run_leaves_no_trace(tmp_path: Path):
    target = tmp_path / "ran"
    error_of(f"k: !!python/object/apply:builtins.open ['{target}', 'w']")
    assert not target.exists()


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("id: caf\xe9".encode("latin-1"))
    assert "not UTF-8" in error_of(latin).message
    assert "no such file" in error_of(tmp_path / "absent.yaml").message
    assert "not a file" in error_of(tmp_path).message
    big = tmp_path / "big.yaml"
    with big.open("wb") as stream:
        stream.truncate((64 << 20) + 1)
    assert "larger than" in error_of(big).message
    assert "absent.yaml" in error_of("absent.yaml").message


def test_json_schema_knows_the_fields_and_validates_what_we_write():
    schema = json_schema("model")
    assert schema["$id"] == "stratoscope/model/1"
    assert schema["additionalProperties"] is False
    assert {"schema", "id", "inputs"} <= set(schema["properties"])
    assert schema["properties"]["version"]["pattern"].startswith("^(0|[1-9]")
    assert set(KINDS) == {"model", "dataset", "software", "hardware", "scenario", "reference", "run"}
    for kind in KINDS:
        assert json.loads(json.dumps(json_schema(kind))) == json_schema(schema_tag(kind))


def test_an_unknown_kind_suggests_the_nearest():
    with pytest.raises(SpecError) as caught:
        json_schema("modle")
    assert caught.value.hint == "did you mean 'model'?"


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0.0", "01.0.0", "v1.0.0", "1.0.0-", "1.0.0-01", "", "1.0.0\n"])
def test_a_version_that_is_not_semantic_is_refused(version: str):
    with pytest.raises(SpecError, match="version"):
        validate(ModelManifest, {"id": "x", "version": version})


@pytest.mark.parametrize(
    "version", ["0.0.0", "1.2.3", "1.0.0-alpha.1", "1.0.0-0.3.7", "1.0.0+build.5", "1.0.0-x-y-z.--+0"]
)
def test_semantic_versions_are_read(version: str):
    assert validate(ModelManifest, {"id": "x", "version": version}).version == version

"""Facts about foreign manifests: what each dialect of MLModelScope says is kept, and the rest is dropped by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratoscope.errors import SpecError
from stratoscope.spec.dialects import Imported, read_dialect
from stratoscope.spec.steps import ArgSort, Cast, Crop, Decode, Normalize, Resize, Softmax, ToLayout
from stratoscope.spec.yamlio import dump_yaml, load_document

PAPER = """
name: SmallResNet
version: 1.0.0
description: a residual network
framework:
  name: TensorFlow
  version: '>=1.12.0 <2.0'
inputs:
  - type: image
    layer_name: input_tensor
    element_type: float32
    steps:
      - decode:
          data_layout: NHWC
          color_mode: RGB
      - resize:
          dimensions: [3, 224, 192]
          method: bilinear
          keep_aspect_ratio: true
      - normalize:
          mean: [123.68, 116.78, 103.94]
          rescale: 0.5
outputs:
  - type: probability
    layer_name: prob
    element_type: float32
    steps:
      - argsort:
          labels_url: https://example.org/synset.txt
preprocess: |
  def fun(env, data):
    open("/tmp/should-not-exist", "w")
postprocess: "import os"
model:
  base_url: https://example.org/files/
  graph_path: resnet.pb
  checksum: 0123456789abcdef
attributes:
  training_dataset:
    - name: ImageNet
    - version: 1.0.0
"""

GO = """
name: Detector
framework: {name: TensorFlow, version: 1.10}
version: 2.1
container:
  amd64: {gpu: a/b:c, cpu: a/b:d}
references: [https://example.org/paper.pdf]
license: unrestricted
hidden: true
inputs:
  - type: image
    description: the input image
    parameters:
      element_type: float32
      input_layer: 'image_tensor:0'
      layout: CHW
      color_mode: BGR
      dimensions: [3, 300, 200]
      mean: [103, 116, 123]
      scale: 2
      max_dimension: 1024
output:
  type: boundingbox
  parameters:
    element_type: float
    probabilities_layer: scores
    boxes_layer: boxes
    classes_layer: classes
    features_url: https://example.org/coco.txt
    features_checksum: abc
before_preprocess: code
after_postprocess: code
model:
  graph_path: https://example.org/graph.pb
  weights_path: https://example.org/weights.bin
  graph_checksum: fedcba
  is_archive: true
attributes: {kind: CNN, manifest_author: A. Author, top1: 76.10, mAP: 0.3}
"""

MLHARNESS = """
name: Classifier
framework: {name: Onnxruntime, version: 1.7.1}
version: 1.0
description: >
  text on
  two lines
modality: general
inputs:
  - type: image
    parameters:
      element_type: float32
      input_layer: 0
      layout: HWC
      dimensions: [1, 28, 28]
  - type: general
    description: segment id
    parameters: {element_type: int64}
outputs:
  - type: classification
    parameters: {element_type: float32, probabilities_transform: softmax}
model:
  is_archive: false
  graph_path: model.onnx
  graph_checksum: 5b48
  features_path: http://example.org/synset.txt
preprocess: "def preprocess(ctx, data): return data"
postprocess: "def postprocess(ctx, data): return data"
attributes: {kind: CNN}
"""


def reasons(imported: Imported) -> dict[str, str]:
    return {item.field: item.reason for item in imported.dropped}


def test_the_papers_listing():
    imported = read_dialect(PAPER)
    model = imported.manifest
    assert (model.id, model.version, model.description) == ("SmallResNet", "1.0.0", "a residual network")
    assert model.framework is not None
    assert (model.framework.name, model.framework.version) == ("TensorFlow", ">=1.12.0 <2.0")
    assert model.source == "https://example.org/files/resnet.pb"
    (image,) = model.inputs
    assert (image.name, image.element_type, image.shape) == ("input_tensor", "float32", ("batch", 224, 192, 3))
    assert image.steps == (
        Decode(color_mode="RGB", data_layout="HWC"),
        Resize(height=224, width=192, keep_aspect_ratio=True),
        Crop(height=224, width=192),
        Normalize(mean=(123.68, 116.78, 103.94), std=(2.0,)),  # (x - mean) * 0.5
    )
    (output,) = model.outputs
    assert (output.name, output.modality, output.steps) == ("prob", "probability", (ArgSort(),))
    assert model.attributes["training_dataset"] == "ImageNet 1.0.0"
    assert model.attributes["md5.checksum"] == "0123456789abcdef"
    assert model.attributes["assumed.inputs[0].steps[2].normalize"] == "(x - mean) * rescale"
    assert "https://example.org/synset.txt" in model.references
    assert set(reasons(imported)) == {
        "preprocess",
        "postprocess",
        "model.checksum",
        "outputs[0].steps[0].argsort.labels_url",
    }
    assert "never run" in reasons(imported)["preprocess"]


def test_the_go_agents_manifest():
    imported = read_dialect(GO)
    model = imported.manifest
    assert (model.version, model.author, model.license) == ("2.1.0", "A. Author", "unrestricted")
    assert model.framework is not None
    assert model.framework.version == "1.10"  # not 1.1
    assert model.attributes["top1"] == "76.10"
    (image,) = model.inputs
    assert (image.name, image.shape) == ("image_tensor:0", ("batch", 3, 300, 200))
    assert image.steps == (
        Decode(color_mode="BGR"),
        Resize(height=300, width=200),
        Normalize(mean=(103.0, 116.0, 123.0), std=(2.0,)),
        ToLayout(to="CHW"),
    )
    assert [(output.name, output.modality) for output in model.outputs] == [
        ("scores", "probability"),
        ("boxes", "boxes"),
        ("classes", "classes"),
    ]
    assert {output.element_type for output in model.outputs} == {"float32"}
    assert {output.shape for output in model.outputs} == {("...",)}
    dropped = reasons(imported)
    assert set(dropped) == {
        "container",
        "hidden",
        "before_preprocess",
        "after_postprocess",
        "inputs[0].parameters.max_dimension",
        "output.parameters.features_url",
        "output.parameters.features_checksum",
        "model.graph_checksum",
        "model.weights_path",
        "model.is_archive",
    }
    assert "MD5" in dropped["model.graph_checksum"]
    assert model.attributes["md5.graph_checksum"] == "fedcba"


def test_the_mlharness_manifest():
    imported = read_dialect(MLHARNESS)
    model = imported.manifest
    assert (model.version, model.description, model.path) == ("1.0.0", "text on two lines", "model.onnx")
    image, segment = model.inputs
    assert (image.name, image.shape) == ("input_0", ("batch", 28, 28, 1))
    assert image.steps == (Decode(color_mode="gray"), Resize(height=28, width=28), Cast(to="float32"))
    assert (segment.name, segment.element_type, segment.shape, segment.steps) == ("input_1", "int64", ("...",), ())
    assert model.outputs[0].steps == (Softmax(), ArgSort())
    assert model.attributes["modality"] == "general"
    assert "input_0" in model.attributes["assumed.inputs[0].name"]
    assert set(reasons(imported)) == {"preprocess", "postprocess", "model.graph_checksum", "model.features_path"}


@pytest.mark.parametrize("text", [PAPER, GO, MLHARNESS])
def test_what_is_read_is_a_manifest_that_survives_yaml(text: str):
    manifest = read_dialect(text).manifest
    assert load_document(dump_yaml(manifest)) == manifest


def test_embedded_code_is_not_run():
    read_dialect(PAPER)
    assert not Path("/tmp/should-not-exist").exists()


def test_every_field_is_taken_over_or_dropped_by_name():
    imported = read_dialect(
        MLHARNESS.replace("kind: CNN", "kind: CNN").replace("modality: general", "modalty: general")
    )
    assert "no place" in reasons(imported)["modalty"]
    deep = read_dialect(
        MLHARNESS.replace("layout: HWC", "layout: HWC, dimensoins: [1]").replace(
            "      layout: HWC, d", "      layout: HWC\n      d"
        )
    )
    assert "inputs[0].parameters.dimensoins" in reasons(deep)


def test_an_unknown_step_or_method_is_dropped_by_name():
    imported = read_dialect(PAPER.replace("method: bilinear", "method: lanczos").replace("- argsort", "- nms"))
    dropped = reasons(imported)
    assert "'lanczos'" in dropped["inputs[0].steps[1].resize"]
    assert "outputs[0].steps[0].nms" in dropped
    assert Resize not in {type(step) for step in imported.manifest.inputs[0].steps}


@pytest.mark.parametrize(("framework", "layout"), [("TensorFlow", "HWC"), ("Tflite", "HWC"), ("MXNet", "CHW")])
def test_a_layout_that_is_not_told_is_the_frameworks_usual_one_and_marked(framework: str, layout: str):
    text = GO.replace("      layout: CHW\n", "").replace("name: TensorFlow", f"name: {framework}")
    manifest = read_dialect(text).manifest
    assert manifest.inputs[0].shape == (("batch", 300, 200, 3) if layout == "HWC" else ("batch", 3, 300, 200))
    assert (ToLayout(to="CHW") in manifest.inputs[0].steps) == (layout == "CHW")
    assert manifest.attributes["assumed.inputs[0].parameters.layout"].startswith(layout)


def test_a_version_that_is_none_is_kept_as_text():
    manifest = read_dialect(GO.replace("version: 2.1", "version: v2-final")).manifest
    assert (manifest.version, manifest.attributes["version"]) == ("0.0.0", "v2-final")


def test_a_graph_path_that_leaves_the_folder_is_dropped():
    imported = read_dialect(MLHARNESS.replace("graph_path: model.onnx", "graph_path: ../../etc/model.onnx"))
    assert imported.manifest.path is None
    assert "inside the manifest's folder" in reasons(imported)["model.graph_path"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("schema: stratoscope/model/1\nid: x", "no MLModelScope model manifest"),
        ("- a\n- b", "no MLModelScope model manifest"),
        ("name: coco\ninit: 'def init(count): ...'\nload: code\nunload: code", "no MLModelScope model manifest"),
        (GO.replace("[103, 116, 123]", "[a, b]"), "inputs[0].parameters.mean must be numbers"),
        (GO.replace("scale: 2", "scale: 0"), "no std is 0"),
        (MLHARNESS.replace("[1, 28, 28]", "[1, 28, 2800000]"), "less than or equal to 65536"),
        (GO + "\nx: !!python/object/apply:os.system ['true']", "not allowed"),
        (GO + "\nname: again", "stands twice"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, expected: str):
    with pytest.raises(SpecError) as caught:
        read_dialect(text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_named_in_the_message(tmp_path: Path):
    path = tmp_path / "go.yml"
    path.write_text(GO)
    assert read_dialect(path) == read_dialect(GO)
    path.write_text("just text")
    with pytest.raises(SpecError, match=r"go\.yml"):
        read_dialect(path)


def test_a_manifest_as_json_is_read_alike():
    text = '{"name": "J", "version": 1, "inputs": [], "model": {"graph_path": "a.onnx", "is_archive": false}}'
    imported = read_dialect(text)
    assert (imported.manifest.path, imported.manifest.version, imported.dropped) == ("a.onnx", "1.0.0", ())

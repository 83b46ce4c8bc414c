"""Facts about declared pre- and post-processing: pixel arithmetic by hand, peers as oracles, hostile files refused."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stratoscope.errors import MeasurementError, SpecError
from stratoscope.measure.images import decode_image, resize_image
from stratoscope.measure.steps import Ranked, apply_postprocess, apply_preprocess, rank, softmax
from stratoscope.spec.steps import (
    ArgSort,
    Cast,
    Crop,
    Decode,
    Normalize,
    Resize,
    Softmax,
    Tokenize,
    ToLayout,
)


def gray(*rows: list[float], dtype: str = "float32") -> np.ndarray:
    return np.array(rows, dtype)[:, :, None]


def test_bilinear_enlargement_by_hand():
    # Half-pixel centres: outputs lie at -0.25, 0.25, 0.75, 1.25 of the inputs; the ends repeat the edge.
    enlarged = resize_image(gray([0.0, 4.0]), Resize(height=1, width=4))
    assert enlarged[0, :, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_bilinear_shrinking_without_antialias_looks_at_two_pixels_only():
    # Four to two: the outputs lie at 0.5 and 2.5, halfway between two inputs.
    shrunk = resize_image(gray([0.0, 2.0, 10.0, 20.0]), Resize(height=1, width=2))
    assert shrunk[0, :, 0].tolist() == [1.0, 15.0]


def test_bilinear_shrinking_with_antialias_weighs_by_a_wider_triangle():
    # Scale 2: weights of inputs at distance 0.25, 0.75 of the scaled triangle: 0.75, 0.75, 0.25, normalised by 1.75.
    shrunk = resize_image(gray([0.0, 2.0, 10.0, 20.0]), Resize(height=1, width=2, antialias=True))
    assert shrunk[0, :, 0] == pytest.approx([(0.75 * 0 + 0.75 * 2 + 0.25 * 10) / 1.75, (0.25 * 2 + 0.75 * 30) / 1.75])


def test_bytes_are_rounded_to_the_nearest_value():
    shrunk = resize_image(gray([0, 1, 3, 0], dtype="uint8"), Resize(height=1, width=2))
    assert shrunk[0, :, 0].tolist() == [1, 2]
    assert shrunk.dtype == np.uint8


def test_nearest_takes_the_pixel_that_contains_the_centre():
    image = gray([0.0, 1.0, 2.0, 3.0, 4.0])
    assert resize_image(image, Resize(height=1, width=2, method="nearest"))[0, :, 0].tolist() == [1.0, 3.0]
    assert resize_image(image, Resize(height=1, width=10, method="nearest"))[0, ::2, 0].tolist() == [0, 1, 2, 3, 4]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_a_constant_image_stays_constant_at_any_size(height: int, width: int, out_h: int, out_w: int, antialias: bool):
    image = np.full((height, width, 3), 7.25)
    for method in ("bilinear", "nearest"):
        step = Resize(height=out_h, width=out_w, method=method, antialias=antialias)
        assert np.allclose(resize_image(image, step), 7.25, rtol=0, atol=1e-12)
        assert resize_image(image, step).shape == (out_h, out_w, 3)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(1, 64))
def test_keeping_the_aspect_ratio_covers_the_target_tightly(height: int, width: int, out_h: int, out_w: int):
    step = Resize(height=out_h, width=out_w, keep_aspect_ratio=True, method="nearest")
    got_h, got_w, _ = resize_image(np.zeros((height, width, 1)), step).shape
    assert got_h >= out_h
    assert got_w >= out_w
    assert got_h == out_h or got_w == out_w
    assert abs(got_h / got_w - height / width) <= (1 / got_w) * (got_h / got_w + 1) * max(1, height / width)


def test_the_shorter_side_is_fitted_as_torchvision_does():
    tall, wide = np.zeros((500, 375, 3)), np.zeros((375, 500, 3))
    step = Resize(height=256, width=256, keep_aspect_ratio=True)
    assert resize_image(tall, step).shape == (341, 256, 3)  # int(256 * 500 / 375)
    assert resize_image(wide, step).shape == (256, 341, 3)


@pytest.mark.torch
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("height", "width"), [(13, 17), (5, 40), (64, 9), (31, 31)])
def test_resize_agrees_with_pytorch(antialias: bool, height: int, width: int):
    import torch

    image = np.random.default_rng(7).random((31, 23, 3))
    tensor = torch.from_numpy(image.transpose(2, 0, 1)[None])
    expected = torch.nn.functional.interpolate(
        tensor, (height, width), mode="bilinear", align_corners=False, antialias=antialias
    )
    ours = resize_image(image, Resize(height=height, width=width, antialias=antialias))
    assert np.allclose(ours, expected[0].numpy().transpose(1, 2, 0), atol=1e-9)
    nearest = torch.nn.functional.interpolate(tensor, (height, width), mode="nearest-exact")
    ours = resize_image(image, Resize(height=height, width=width, method="nearest"))
    assert np.array_equal(ours, nearest[0].numpy().transpose(1, 2, 0))


def test_an_image_is_not_blown_up_beyond_the_limit():
    strip = np.zeros((1, 60000, 1), np.uint8)
    with pytest.raises(SpecError, match="needs more than"):
        resize_image(strip, Resize(height=60000, width=256, keep_aspect_ratio=True))


def test_the_crop_is_central_and_the_smaller_margin_is_above_and_left():
    image = np.arange(5 * 6).reshape(5, 6, 1)
    cropped = apply_preprocess([Crop(height=2, width=4)], image)
    assert cropped[:, :, 0].tolist() == [[7, 8, 9, 10], [13, 14, 15, 16]]
    with pytest.raises(SpecError, match="crop 7 x 4 from an image of 5 x 6"):
        apply_preprocess([Crop(height=7, width=4)], image)


def test_the_imagenet_pipeline_by_hand():
    ppm = b"P6\n# a comment\n2 2\n255\n" + bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    steps = (
        Decode(),
        Resize(height=2, width=2),
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), rescale=1 / 255),
        ToLayout(to="CHW"),
    )
    tensor = apply_preprocess(steps, ppm)
    assert tensor.shape == (3, 2, 2)
    assert tensor.dtype == np.float32
    assert tensor.flags["C_CONTIGUOUS"]
    assert tensor[:, 0, 0] == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rel=1e-5)
    assert tensor[2, 1, 1] == pytest.approx((30 / 255 - 0.406) / 0.225, rel=1e-5)


def test_normalising_before_and_after_the_layout_is_the_same():
    image = np.random.default_rng(1).integers(0, 256, (4, 5, 3), np.uint8)
    scale = Normalize(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    first = apply_preprocess([scale, ToLayout(to="CHW")], image)
    last = apply_preprocess([ToLayout(to="CHW"), scale], image)
    assert np.array_equal(first, last)


def test_channels_first_images_are_resized_and_cropped_in_their_own_layout():
    image = np.random.default_rng(2).integers(0, 256, (6, 8, 3), np.uint8)
    work = (Resize(height=4, width=4), Crop(height=2, width=3))
    hwc = apply_preprocess([Decode(), *work], image)
    chw = apply_preprocess([Decode(data_layout="CHW"), *work], image)
    assert np.array_equal(chw, hwc.transpose(2, 0, 1))


def test_color_modes():
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    assert decode_image(pixel, "RGB")[0, 0].tolist() == [10, 20, 30]
    assert decode_image(pixel, "BGR")[0, 0].tolist() == [30, 20, 10]
    assert decode_image(pixel, "gray")[0, 0].tolist() == [18]  # 2.99 + 11.74 + 3.42 = 18.15
    assert decode_image(np.array([[9]], np.uint8), "RGB")[0, 0].tolist() == [9, 9, 9]


def test_pgm_and_npy_are_read_without_pillow():
    assert decode_image(b"P5 3 1 255\n\x00\x7f\xff", "gray")[0, :, 0].tolist() == [0, 127, 255]
    stream = io.BytesIO()
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.save(stream, np.asfortranarray(image))
    assert np.array_equal(decode_image(stream.getvalue()), image)


def npy_header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"P6 100000 100000 255\n\x00",
        b"P6 2 2 65535\n" + bytes(24),
        b"P6 x",
        b"P5 " + b"9" * 5000,
        b"P5 #" + b"no end",
        npy_header("'|u1'", "(1000000, 1000000, 3)") + b"\x00",
        npy_header("'|O'", "(1,)") + b"\x80\x04N.",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x00",
        npy_header("'<f4'", "(1, 1, 3)") + bytes(12),
        npy_header("'|u1'", "(0, 4, 3)"),
    ],
)
def test_damaged_and_hostile_images_are_refused(data: bytes):
    with pytest.raises(SpecError):
        decode_image(data)


def test_other_formats_without_pillow_say_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SpecError, match="pip install pillow"):
        decode_image(b"\x89PNG\r\n\x1a\n")


def test_casts_refuse_what_the_type_cannot_hold():
    assert apply_preprocess([Cast(to="int32")], np.array([1.0, -2.0])).dtype == np.int32
    for value, kind in ((1.5, "int32"), (300.0, "uint8"), (-1.0, "uint8"), (float("nan"), "int64")):
        with pytest.raises(SpecError, match=kind):
            apply_preprocess([Cast(to=kind)], np.array([value]))  # type: ignore[arg-type]


def test_steps_get_what_they_can_work_on():
    with pytest.raises(SpecError, match="needs an array"):
        apply_preprocess([Crop(height=1, width=1)], b"bytes")
    with pytest.raises(SpecError, match="needs a text"):
        apply_preprocess([Tokenize(vocabulary="v", max_length=4)], b"bytes")
    with pytest.raises(SpecError, match="3 channels"):
        apply_preprocess([Normalize(mean=(1.0, 2.0, 3.0))], np.zeros((2, 2, 1)))
    with pytest.raises(SpecError, match="no pre-processing"):
        apply_preprocess([Softmax()], np.zeros(3))
    with pytest.raises(SpecError, match="no post-processing"):
        apply_postprocess([Crop(height=1, width=1)], np.zeros(3))


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=5), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_sums_to_one_and_ignores_a_shift(logits: np.ndarray):
    probabilities = softmax(logits.astype(np.float64), -1)
    assert np.allclose(probabilities.sum(axis=-1), 1)
    assert np.allclose(probabilities, softmax(logits.astype(np.float64) + 1000, -1), atol=1e-9)


def test_softmax_by_hand():
    assert softmax(np.log(np.array([1.0, 2.0, 5.0])), 0) == pytest.approx([0.125, 0.25, 0.625])
    with pytest.raises(SpecError, match="axis 2"):
        softmax(np.zeros((2, 2)), 2)


@given(hnp.arrays(np.int8, st.integers(1, 30), elements=st.integers(-3, 3)), st.integers(1, 40))
def test_ranking_agrees_with_sorting_pairs(scores: np.ndarray, k: int):
    expected = sorted(range(len(scores)), key=lambda i: (-int(scores[i]), i))[:k]
    assert [entry.index for entry in rank(scores, ArgSort(k=k))] == expected


def test_unsigned_scores_are_ranked_by_value():
    assert [entry.index for entry in rank(np.array([0, 200, 100], np.uint8), ArgSort())] == [1, 2, 0]


def test_top_k_with_labels_and_a_background_class(tmp_path: Path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nfish\n")
    steps = (Softmax(), ArgSort(k=2, labels="labels.txt", ignore_first=1))
    answer = apply_postprocess(steps, np.log(np.array([[0.5, 0.1, 0.1, 0.3]])), folder=tmp_path)
    assert isinstance(answer, list)
    assert [(entry.label, entry.index) for entry in answer] == [("fish", 2), ("cat", 0)]
    assert answer[0].score == pytest.approx(0.3)
    with pytest.raises(SpecError, match="names 3 classes, the output has 5"):
        apply_postprocess([ArgSort(labels="labels.txt")], np.zeros(5), folder=tmp_path)


def test_an_output_with_nan_or_of_several_samples_has_no_ranking():
    with pytest.raises(MeasurementError, match="NaN"):
        rank(np.array([0.1, np.nan]), ArgSort())
    with pytest.raises(SpecError, match="one sample"):
        rank(np.zeros((2, 3)), ArgSort())
    assert rank(np.array([1.0]), ArgSort()) == [Ranked(0, 1.0)]


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cafe", "中", ",", "!", "hello", "##s"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


def test_word_pieces_by_hand(vocabulary: Path):
    step = Tokenize(vocabulary="vocab.txt", max_length=10)
    ids = apply_preprocess([step], "Unaffable café,中 zebra", folder=vocabulary)
    expected = ["[CLS]", "un", "##aff", "##able", "cafe", ",", "中", "[UNK]", "[SEP]", "[PAD]"]
    assert [VOCABULARY[index] for index in ids] == expected
    mask = apply_preprocess([step.model_copy(update={"output": "mask"})], "hello!", folder=vocabulary)
    assert mask.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert not apply_preprocess([step.model_copy(update={"output": "segments"})], "hello", folder=vocabulary).any()


def test_a_long_text_is_cut_and_keeps_its_end_token(vocabulary: Path):
    ids = apply_preprocess([Tokenize(vocabulary="vocab.txt", max_length=4)], "hello " * 50, folder=vocabulary)
    assert [VOCABULARY[index] for index in ids] == ["[CLS]", "hello", "hello", "[SEP]"]


@pytest.mark.torch
def test_tokens_agree_with_the_reference_tokenizer(vocabulary: Path):
    from transformers import BertTokenizer

    reference = BertTokenizer(str(vocabulary / "vocab.txt"))
    step = Tokenize(vocabulary="vocab.txt", max_length=16)
    for text in ("Unaffable CAFÉ!", "hellos,\thello\u00a0中hello", "a\u0000b un\u200baff unable", "$hello^ 'un' ￥"):
        expected = reference(text, padding="max_length", truncation=True, max_length=16)["input_ids"]
        assert apply_preprocess([step], text, folder=vocabulary).tolist() == expected, text


def test_vocabulary_files_stay_inside_the_manifests_folder(vocabulary: Path, tmp_path: Path):
    for name in ("/etc/passwd", "../vocab.txt", "a/../../b", "C:\\x", ""):
        with pytest.raises(ValueError, match="inside the manifest's folder"):
            Tokenize(vocabulary=name, max_length=4)
    (vocabulary / "models").mkdir()
    (vocabulary / "models" / "link.txt").symlink_to(vocabulary / "vocab.txt")
    with pytest.raises(SpecError, match="outside"):
        apply_preprocess([Tokenize(vocabulary="link.txt", max_length=4)], "x", folder=vocabulary / "models")
    with pytest.raises(SpecError, match="cannot read"):
        apply_preprocess([Tokenize(vocabulary="absent.txt", max_length=4)], "x", folder=vocabulary)


def test_a_vocabulary_without_special_tokens_is_refused_by_name(tmp_path: Path):
    (tmp_path / "v.txt").write_text("hello\n[PAD]\n")
    with pytest.raises(SpecError, match=r"\[UNK\], \[CLS\], \[SEP\]"):
        apply_preprocess([Tokenize(vocabulary="v.txt", max_length=4)], "hello", folder=tmp_path)

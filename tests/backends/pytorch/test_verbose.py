"""Lines that oneDNN 3.12 and MKL 2024.2 print, and the operators they belong to."""

from __future__ import annotations

import pytest

from stratoscope.backends.pytorch.verbose import (
    Operator,
    Primitive,
    attach_by_order,
    parse_line,
    parse_verbose,
    weight_shapes,
)

WEIGHTS = (
    "onednn_verbose,v1,1795233760918.509033,primitive,exec,cpu,reorder,jit:uni,undef,"
    "src:f32::blocked:abcd::f0 dst:f32::blocked:Acdb16a::f0,attr-scratchpad:user,,64x3x7x7,0.0109863"
)
CONVOLUTION = (
    "onednn_verbose,v1,1795233760918.626953,primitive,exec,cpu,convolution,jit:avx512_core,forward_training,"
    "src:f32:a:blocked:abcd::f0 wei:f32:a:blocked:Acdb16a::f0 bia:f32:a:blocked:a::f0 dst:f32:a:blocked:aBcd16b::f0,"
    "attr-scratchpad:user,alg:convolution_direct,"
    "mb1_ic3oc64_ih224oh112kh7sh2dh0ph3_iw224ow112kw7sw2dw0pw3,7.50415"
)
RESULT = (
    "onednn_verbose,v1,1795233760926.229980,primitive,exec,cpu,reorder,jit:blk,undef,"
    "src:f32::blocked:aBcd16b::f0 dst:f32::blocked:abcd::f0,attr-scratchpad:user,,1x64x112x112,9.07007"
)
SGEMM = (
    "MKL_VERBOSE SGEMM(T,N,1000,1,64,0x7fff40e53910,0x564ab350efc0,64,0x564ab35fb440,64,0x7fff40e53930,"
    "0x564ab3660300,1000) 53.18us CNR:OFF Dyn:0 FastMM:1 TID:0  NThr:1"
)
BATCH = "MKL_VERBOSE SGEMM_BATCH(N,N,0x7ffc92291928,0x7ffc92291924,0x7ffc92291920) 1.25ms CNR:OFF Dyn:0"


def test_onednn_line_with_a_stamp_gives_start_duration_and_what_ran() -> None:
    found = parse_line(CONVOLUTION)
    assert found is not None
    assert (found.name, found.implementation, found.direction) == ("convolution", "jit:avx512_core", "forward_training")
    assert found.start_unix_ns == 1_795_233_760_918_626_953
    assert found.duration_ns == 7_504_150
    assert found.layouts[1] == ("wei", "f32", "Acdb16a")


def test_onednn_line_without_a_stamp_has_the_same_fields() -> None:
    stamped, plain = parse_line(CONVOLUTION), parse_line(CONVOLUTION.replace("1795233760918.626953,", ""))
    assert stamped is not None
    assert plain is not None
    assert plain.start_unix_ns is None
    assert (plain.name, plain.problem, plain.duration_ns) == (stamped.name, stamped.problem, stamped.duration_ns)


@pytest.mark.parametrize(
    "line",
    [
        "onednn_verbose,v1,info,cpu,isa:Intel AVX-512",
        "onednn_verbose,v1,primitive,info,template:timestamp,operation,engine,primitive,exec_time",
        CONVOLUTION.replace("exec", "create:cache_hit"),
        CONVOLUTION.rsplit(",", 1)[0] + ",soon",
        "onednn_verbose,v1,1.5,graph,exec,cpu,0,a,b,c,d,e,f,g,1.0",
        "onednn_verbose,exec,cpu",
        "MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605, Lnx 2.60GHz lp64 gnu_thread",
        "the model's own output, exec",
        "",
    ],
)
def test_lines_that_tell_of_no_execution_are_skipped(line: str) -> None:
    assert parse_line(line) is None


def test_mkl_line_gives_routine_sizes_and_time() -> None:
    found = parse_line(SGEMM)
    assert found == Primitive("mkl", "sgemm", "", "1000x1x64", 53_180, sizes=(1000, 1, 64))
    batch = parse_line(BATCH)
    assert batch is not None
    assert (batch.name, batch.sizes, batch.duration_ns) == ("sgemm_batch", (), 1_250_000)


def test_reorder_into_the_layout_of_the_next_weights_is_a_weight_reorder() -> None:
    assert [one.kind for one in parse_verbose([WEIGHTS, CONVOLUTION, RESULT])] == [
        "weight reorder",
        "compute",
        "layout reorder",
    ]


def test_reorder_of_an_activation_into_the_same_layout_is_none_of_weights() -> None:
    activation = WEIGHTS.replace("64x3x7x7", "1x3x224x224")
    other_layout = WEIGHTS.replace("Acdb16a", "ABcd16b16a")
    for line in (activation, other_layout):
        assert parse_verbose([line, CONVOLUTION])[0].kind == "layout reorder"
    assert parse_verbose([WEIGHTS])[0].kind == "layout reorder"


@pytest.mark.parametrize(
    ("problem", "shape"),
    [
        ("mb1_ic3oc64_ih224oh112kh7sh2dh0ph3_iw224ow112kw7sw2dw0pw3", (64, 3, 7, 7)),
        ("mb2_g4ic8oc16_ih9oh9kh3sh1dh0ph1_iw9ow9kw3sw1dw0pw1", (4, 4, 2, 3, 3)),
        ("mb1ic64oc10", (10, 64)),
        ("1x64:64x1000", (64, 1000)),
    ],
)
def test_shape_of_the_weights_follows_from_the_problem(problem: str, shape: tuple[int, ...]) -> None:
    assert shape in weight_shapes(problem)
    assert (*shape, 1) not in weight_shapes(problem)


def blas(*sizes: int, name: str = "sgemm") -> Primitive:
    return Primitive("mkl", name, "", "", 1, sizes=sizes)


def stamped(at: int) -> Primitive:
    return Primitive("onednn", "convolution", "", "", 1, start_unix_ns=at)


def product(start: int, end: int, *shapes: tuple[int, ...], name: str = "aten::mm") -> Operator:
    return Operator(name, start, end, shapes)


def test_mkl_lines_go_to_their_operators_in_order() -> None:
    operators = [product(0, 10, (2, 3), (3, 4)), product(20, 30, (2, 3), (3, 4)), product(40, 50, (5, 3), (3, 6))]
    assert attach_by_order([blas(4, 2, 3), blas(4, 2, 3), blas(6, 5, 3)], operators) == [0, 1, 2]


def test_operator_that_printed_nothing_is_passed_over_by_its_sizes() -> None:
    operators = [product(0, 10, (2, 3), (3, 4)), product(20, 30, (5, 3), (3, 6))]
    assert attach_by_order([blas(6, 5, 3)], operators) == [1]


def test_stamped_lines_around_an_mkl_line_bound_where_it_ran() -> None:
    operators = [product(start, start + 10, (2, 3), (3, 4)) for start in (0, 20, 40)]
    assert attach_by_order([stamped(15), blas(4, 2, 3), stamped(35)], operators) == [1]


def test_operator_that_calls_once_an_image_keeps_all_its_lines() -> None:
    operators = [product(0, 10, (3, 2, 8, 8), (4, 2, 3, 3), name="aten::_slow_conv2d_forward")]
    assert attach_by_order([blas(36, 4, 18)] * 3, operators) == [0, 0, 0]


def test_batched_product_belongs_to_a_batched_operator_only() -> None:
    operators = [product(0, 10), product(20, 30, name="aten::bmm")]
    assert attach_by_order([blas(name="sgemm_batch")], operators) == [1]


def test_line_that_fits_no_operator_is_not_placed() -> None:
    assert attach_by_order([blas(7, 7, 7)], [product(0, 10, (2, 3), (3, 4))]) == [None]

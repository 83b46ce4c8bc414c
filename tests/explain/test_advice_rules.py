"""Rules find what they should, leave what the user chose, and never fire without their evidence."""

from __future__ import annotations

import dataclasses

from stratoscope.explain.advice.changes import Change
from stratoscope.explain.advice.facts import Facts
from stratoscope.explain.advice.rules import RULES, findings
from stratoscope.spec.options import BackendOptions

PLAIN = Facts("onnxruntime", BackendOptions(), cpus=2)


def keys(facts: Facts, *, quick: bool = False) -> set[str]:
    return {one.key for one in findings(facts, quick=quick)}


def test_rules_have_names_of_their_own_and_cover_the_questions() -> None:
    assert len({rule.key for rule in RULES}) == len(RULES)
    assert {rule.question for rule in RULES} >= {"Q2", "Q3", "Q4", "Q5", "Q6", "Q7", "Q8", "Q9", "Q10"}


def test_rewrites_are_advised_only_where_they_fit() -> None:
    assert not keys(PLAIN) & {"lrn-as-pool", "fold-affine"}
    fits = dataclasses.replace(PLAIN, fits={"lrn-as-pool": ("n1", "n2")})
    found = next(one for one in findings(fits) if one.key == "lrn-as-pool")
    assert found.layers == ("n1", "n2")
    assert found.change == Change(graph=("lrn-as-pool",))
    assert found.share is None  # nothing was profiled, so no share is claimed
    assert "unknown part" in found.claim


def test_what_the_user_chose_is_left_alone() -> None:
    assert {"threads-1"} <= keys(PLAIN)
    chosen = dataclasses.replace(PLAIN, options=BackendOptions(threads=2), chosen=frozenset({"threads"}))
    assert not {one for one in keys(chosen) if one.startswith("threads")}


def test_parallel_branches_need_a_shorter_chain() -> None:
    assert "parallel-branches" not in keys(PLAIN)
    assert "parallel-branches" not in keys(dataclasses.replace(PLAIN, parallel_gain=1.01))
    assert "parallel-branches" in keys(dataclasses.replace(PLAIN, parallel_gain=1.3))


def test_pytorch_advice() -> None:
    facts = Facts("pytorch", BackendOptions(), operators={"Conv": 3}, isa=frozenset({"avx512_bf16"}), cpus=2)
    assert {"channels-last", "bfloat16", "compile"} <= keys(facts)
    assert "channels-last" not in keys(dataclasses.replace(facts, options=BackendOptions(channels_last=True)))
    assert "bfloat16" not in keys(dataclasses.replace(facts, isa=frozenset({"avx2"})))
    assert not {one for one in keys(facts) if one.startswith(("threads", "graph"))}


def test_lower_precision_says_that_it_changes_the_numbers() -> None:
    facts = Facts("pytorch", BackendOptions(), isa=frozenset({"amx_bf16"}))
    assert [one.key for one in findings(facts) if one.change.changes_numbers] == ["bfloat16"]


def test_quick_advice_is_a_part_of_all() -> None:
    facts = dataclasses.replace(PLAIN, parallel_gain=2.0, other_backends=("openvino",))
    assert keys(facts, quick=True) < keys(facts)
    assert "runtime-openvino" not in keys(facts, quick=True)

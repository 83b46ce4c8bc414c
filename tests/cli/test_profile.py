"""`stratoscope profile`: levels, modes, and what it says when a back end lacks one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BRIEF = ("--threads", "1", "--repeats", "3", "--no-save")


def test_level_that_a_back_end_lacks_is_a_line_of_the_report(stratoscope, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "record.json"
    result = stratoscope("profile", "digits", "--level", "library", "--json", file, *BRIEF)
    assert result.code == 0, result.err
    record = json.loads(file.read_text())
    assert [item["what"] for item in record["unavailable"]] == ["operator level", "library level"]
    assert record["profile"]["layers"]
    assert "below the node" in result.out


@pytest.mark.torch
def test_operators_stand_under_their_modules(stratoscope, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file, page = tmp_path / "record.json", tmp_path / "page.html"
    result = stratoscope(
        "profile", "digits", "-b", "pytorch", "--level", "operator", "--json", file, "--html", page, *BRIEF
    )
    assert result.code == 0, result.err
    record = json.loads(file.read_text())
    layers = {row["name"] for row in record["profile"]["layers"]}
    assert {row["layer"] for row in record["profile"]["operators"]} <= layers
    assert record["backend"]["options"]["threads"] == 1
    assert "aten::addmm" in result.out
    assert "Below the layers" in page.read_text()


@pytest.mark.parametrize("mode", ["train", "generate"])
def test_mode_that_a_back_end_lacks_is_one_line_with_the_way_out(stratoscope, mode: str) -> None:  # type: ignore[no-untyped-def]
    result = stratoscope("profile", "digits", "--mode", mode, *BRIEF)
    assert result.code == 2
    assert "--backend pytorch" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_number_of_new_tokens_is_of_generation_only(stratoscope) -> None:  # type: ignore[no-untyped-def]
    result = stratoscope("profile", "digits", "--new-tokens", "3", *BRIEF)
    assert result.code == 2
    assert "--mode generate" in result.err


@pytest.mark.slow
@pytest.mark.torch
def test_generation_has_as_many_tokens_as_asked_for(stratoscope, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "record.json"
    options = ("-b", "pytorch", "--mode", "generate", "--new-tokens", "3", "--budget", "1")
    result = stratoscope("profile", "gpt2", *options, "--json", file, "--threads", "1", "--no-save")
    assert result.code == 0, result.err
    generation = json.loads(file.read_text())["generation"]
    assert generation["new_tokens"] == 3
    held = generation["prompt_tokens"] + 2  # the last token is not fed back
    per_token = generation["cache_bytes_per_token"]["value"]
    assert generation["cache_bytes"]["value"] == per_token * held * generation["batch_size"]


@pytest.mark.torch
def test_training_step_is_reported_with_its_phases(stratoscope, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "record.json"
    options = ("-b", "pytorch", "--mode", "train", "--batch-size", "4", "--budget", "1")
    result = stratoscope("profile", "digits", *options, "--json", file, *BRIEF)
    assert result.code == 0, result.err
    training = json.loads(file.read_text())["training"]
    assert [phase["name"] for phase in training["phases"]] == ["forward", "loss", "backward", "optimizer"]
    assert training["batch_size"] == 4

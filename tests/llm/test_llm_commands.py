"""The commands of `stratoscope llm` as a user types them: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stratoscope.cli.llm import llm_app
from stratoscope.errors import StratoscopeError

RUNNER = CliRunner()


def run(*arguments: str) -> Result:
    return RUNNER.invoke(llm_app, list(arguments))


def test_train_explains_itself_and_writes_page_and_record(tmp_path: Path) -> None:
    html, record = tmp_path / "t.html", tmp_path / "t.json"
    result = run(
        "train", "-m", "llama-3.1-8b", "--gbs", "32", "--plan", "tp4,dp2", "--explain", "--price", "2",
        "--html", str(html), "--json", str(record),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in ("step_s", "mfu", "dollar_per_million_tokens", "gemm roofline", "assumes:"):
        assert part in result.output
    assert json.loads(record.read_text())["kind"] == "train"
    assert "Memory over the step" in html.read_text()


def test_infer_serve_memory_and_search_answer(tmp_path: Path) -> None:
    page = tmp_path / "i.html"
    for arguments, expected in (
        (("infer", "-m", "qwen3-8b", "-b", "4", "--output", "16", "--html", str(page)), "tpot_s"),
        (("serve", "-m", "llama-3.1-8b", "--rate", "2"), "ttft_p99_s"),
        (("memory", "-m", "llama-3.1-70b", "--hw", "h200"), "largest_batch"),
        (("search", "-m", "llama-3.1-8b", "--devices", "8", "--gbs", "32"), "plans priced"),
        (("search", "-m", "llama-3.1-8b", "--for", "serve", "--devices", "2", "--tpot", "0.05"), "tok/s/device"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert expected in result.output
    assert "Roofline" in page.read_text()


def test_json_on_standard_output_is_nothing_but_json() -> None:
    result = run("infer", "-m", "llama-3.1-8b", "--output", "4", "--json", "-")
    assert json.loads(result.output)["results"]["latency_s"]["unit"] == "s"


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    result = run("train", "-m", "llama-3.1-70b", "--gbs", "8")
    assert result.exit_code == 0
    assert "DOES NOT FIT" in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("train", "-m", "nope", "--gbs", "8"), "nope"),
        (("train", "-m", "llama-3.1-8b", "--gbs", "8", "--plan", "tp3"), "heads"),
        (("train", "-m", "llama-3.1-8b", "--gbs", "8", "--hw", "abacus"), "abacus"),
        (("infer", "-m", "llama-3.1-8b", "--precision", "fp8", "--hw", "a100"), "fp8"),
        (("infer", "-m", "llama-3.1-8b", "--level", "calibrated"), "calibration"),
        (("infer", "-m", "llama-3.1-8b", "--level", "guess"), "level"),
        (("search", "-m", "llama-3.1-8b", "--devices", "many"), "counts"),
        (("validate", "--suite", "C99"), "C99"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], reason: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, StratoscopeError)
    assert reason in str(result.exception)


def test_validate_prints_the_verdict_of_a_suite(tmp_path: Path) -> None:
    target = tmp_path / "v.json"
    result = run("validate", "--suite", "C3", "--rows", "--json", str(target))
    assert "MAPE" in result.output
    assert result.output.count("C3-") >= 9
    assert json.loads(target.read_text())["suites"][0]["rows"] == 9


def test_hardware_lists_devices_and_sources() -> None:
    assert "GB300" in run("hardware").output
    assert "ml-engineering" in run("hardware", "h100").output
    assert json.loads(run("hardware", "h100", "--json", "-").output)["vendor"] == "NVIDIA"


def test_diff_reads_two_questions(tmp_path: Path) -> None:
    paths = []
    for device in ("a100", "h100"):
        path = tmp_path / f"{device}.yaml"
        path.write_text(f"model: llama-3.1-8b\nhardware: {device}\ngenerate: {{batch: 1, prompt: 128, output: 8}}\n")
        paths.append(str(path))
    assert "B takes" in run("diff", *paths).output

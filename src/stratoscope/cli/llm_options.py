"""What the commands of `stratoscope llm` share: options, the device and deployment that they name, what they write."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stratoscope.errors import SpecError

if TYPE_CHECKING:
    from stratoscope.llm.efficiency import Efficiency
    from stratoscope.llm.infer import Deployment
    from stratoscope.llm.plan import Precision
    from stratoscope.llm.report import Report

MOST_DEVICES = 2**20

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A shipped model's name, or a config.json.", show_default=False)
]
HardwareOption = Annotated[
    str,
    typer.Option("--hw", help="Device (see `stratoscope llm hardware`), or a file of `stratoscope machine --json`."),
]
PlanOption = Annotated[
    str,
    typer.Option(
        "--plan",
        help="Split over devices, as tp8,pp4,dp2,zero1,sp,full; also cp, ep, vpp, hsdp, offload, order=tp-cp-pp-dp.",
    ),
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="bf16, fp16, fp32, fp8, int8, int8wo, int4wo, fp4.")]
CacheOption = Annotated[
    str | None, typer.Option("--kv", help="Format of the key-value cache: bf16, fp16, fp8, int8.", show_default=False)
]
EngineOption = Annotated[str, typer.Option("--engine", help="Software that runs the model.")]
LevelOption = Annotated[
    str, typer.Option("--level", help="peak, prior (fitted to kernel tables), calibrated or measured (a calibration).")
]
CalibrationOption = Annotated[
    Path | None, typer.Option("--calibration", help="File of `llm calibrate`; its machine.", show_default=False)
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Print the tree behind every number.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Write the full report here ('-': standard output).", show_default=False)
]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write the report page here.", show_default=False)]
PriceOption = Annotated[
    float | None, typer.Option("--price", min=0, help="Dollars per device and hour.", show_default=False)
]


def device(hardware: str, level: str, calibration: Path | None) -> Efficiency:
    from stratoscope.llm.calibrate import calibrated_hardware, load_calibration
    from stratoscope.llm.efficiency import LEVELS, efficiency
    from stratoscope.llm.hardware import find_hardware
    from stratoscope.llm.machine import machine_hardware

    if level not in LEVELS:
        raise SpecError(f"no efficiency level {level!r}", hint=f"levels: {', '.join(LEVELS)}")
    if calibration is not None:
        document = load_calibration(calibration)
        chosen: Literal["calibrated", "measured"] = "measured" if level == "measured" else "calibrated"
        return efficiency(calibrated_hardware(document), chosen, document)
    if hardware.endswith(".json"):
        return efficiency(machine_hardware(Path(hardware)), level)
    return efficiency(find_hardware(hardware), level)


def number_formats(precision: str, kv: str | None) -> Precision:
    """The preset of that name, with another format for the cache where `kv` names one."""
    from stratoscope.llm.plan import CACHE_FORMATS, Precision

    preset = Precision.preset(precision)
    if kv is None:
        return preset
    if kv not in CACHE_FORMATS:
        raise SpecError(f"no cache format {kv!r}", hint=f"formats: {', '.join(CACHE_FORMATS)}")
    return preset.model_copy(update={"kv": kv})


def device_counts(text: str) -> tuple[int, ...]:
    """Numbers of devices from `64` or `8,16,64`; raises SpecError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= MOST_DEVICES for part in parts):
        raise SpecError(
            f"--devices {text!r} is not a list of counts", hint=f"for example 8,16,64; at most {MOST_DEVICES:,}"
        )
    return tuple(int(part) for part in parts)


def finite(option: str, value: float | None, *, above: float = 0.0) -> float | None:
    """The value of an option; raises SpecError unless it is a finite number above `above`."""
    if value is not None and not (math.isfinite(value) and value > above):
        raise SpecError(f"{option} {value}: a finite number above {above:g} is wanted")
    return value


def write_json(document: dict[str, Any], target: Path | None) -> None:
    from stratoscope.report.files import write_text

    if target is None:
        return
    text = json.dumps(document, indent=2) + "\n"
    if str(target) == "-":
        typer.echo(text, nl=False)
    else:
        write_text(target, text)


def show(report: Report, explain: bool, json_file: Path | None) -> None:
    from stratoscope.llm.render import report_lines

    write_json(report.model_dump(mode="json"), json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(report_lines(report, explain=explain)))


def priced(report: Report, price: float | None) -> Report:
    from stratoscope.llm.economics import priced

    finite("--price", price, above=-1.0)
    return report if price is None else priced(report, price)


BatchOption = Annotated[int, typer.Option("--batch", "-b", min=1, help="Sequences at once.")]
PromptOption = Annotated[int, typer.Option("--prompt", min=1, help="Tokens of a prompt.")]
OutputOption = Annotated[int, typer.Option("--output", min=1, help="Tokens generated per sequence.")]


def deployment(
    model: str, plan: str, formats: Precision, engine: str, hw: str, level: str, calibration: Path | None
) -> Deployment:
    from stratoscope.llm.hf import load_model
    from stratoscope.llm.infer import Deployment
    from stratoscope.llm.plan import ParallelPlan, find_engine

    return Deployment(
        load_model(model),
        ParallelPlan.parse(plan),
        formats,
        find_engine(engine),
        device(hw, level, calibration),
    )

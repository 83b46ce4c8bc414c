"""`stratoscope llm`: time, memory, cost and energy of transformers on hardware that one does not have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stratoscope.cli.llm_options import (
    BatchOption,
    CacheOption,
    CalibrationOption,
    EngineOption,
    ExplainOption,
    HardwareOption,
    HtmlOption,
    JsonOption,
    LevelOption,
    ModelOption,
    OutputOption,
    PlanOption,
    PrecisionOption,
    PriceOption,
    PromptOption,
    deployment,
    device,
    device_counts,
    finite,
    number_formats,
    priced,
    show,
    write_json,
)
from stratoscope.errors import SpecError

if TYPE_CHECKING:
    from stratoscope.llm.efficiency import Efficiency
    from stratoscope.llm.plan import Engine, ParallelPlan, Precision, TrainStep
    from stratoscope.llm.report import Report
    from stratoscope.llm.spec import ModelSpec

llm_app = typer.Typer(
    help="Predict training and serving of transformers: time, memory, cost, energy; each number explained.",
    no_args_is_help=True,
)


@llm_app.command()
def train(
    model: ModelOption,
    global_batch: Annotated[int, typer.Option("--gbs", min=1, help="Sequences of one optimizer step.")],
    seq: Annotated[int, typer.Option("--seq", min=1, help="Tokens of a sequence.")] = 4096,
    micro_batch: Annotated[int, typer.Option("--mbs", min=1, help="Sequences of a microbatch.")] = 1,
    plan: PlanOption = "",
    hw: HardwareOption = "h100",
    precision: PrecisionOption = "bf16",
    engine: EngineOption = "megatron-core",
    lora: Annotated[
        int | None, typer.Option("--lora", min=1, help="Rank of LoRA adapters.", show_default=False)
    ] = None,
    level: LevelOption = "prior",
    calibration: CalibrationOption = None,
    price: PriceOption = None,
    explain: ExplainOption = False,
    json_file: JsonOption = None,
    html: HtmlOption = None,
) -> None:
    """One optimizer step: seconds, tokens/s, MFU and HFU, memory of the fullest device."""
    from stratoscope.llm.estimate import estimate_training
    from stratoscope.llm.hf import load_model
    from stratoscope.llm.plan import Lora, ParallelPlan, Precision, TrainStep, find_engine

    chip, spec, split = device(hw, level, calibration), load_model(model), ParallelPlan.parse(plan)
    adapters = Lora(rank=lora) if lora is not None else None
    work = TrainStep(global_batch=global_batch, micro_batch=micro_batch, seq=seq, lora=adapters)
    chosen, numbers = find_engine(engine), Precision.preset(precision)
    report = priced(estimate_training(spec, split, work, chip, precision=numbers, engine=chosen), price)
    show(report, explain, json_file)
    if html is not None:
        _training_page(report, html, spec, split, work, numbers, chosen, chip)


def _training_page(
    report: Report, target: Path, spec: ModelSpec, split: ParallelPlan, work: TrainStep, numbers: Precision,
    engine: Engine, chip: Efficiency,
) -> None:  # fmt: skip
    from stratoscope.llm.memory import training_memory, training_timeline
    from stratoscope.llm.page import page
    from stratoscope.llm.timing import layer_prices
    from stratoscope.report.files import write_text

    at = training_memory(split, work.micro_batch, work.global_batch, work.seq)
    timeline = training_timeline(spec, at, numbers, engine, work.lora)
    ops = layer_prices(spec, "train", work.micro_batch, work.seq, float(split.tp), numbers, engine, chip)
    roofs = (chip.hardware.peak(numbers.compute), chip.hardware.memory_bandwidth)
    write_text(target, page(report, timeline=timeline, ops=ops, roofs=roofs))


@llm_app.command()
def infer(
    model: ModelOption,
    batch: BatchOption = 1,
    prompt: PromptOption = 1024,
    output: OutputOption = 128,
    cached: Annotated[int, typer.Option("--cached", min=0, help="Prompt tokens found in a prefix cache.")] = 0,
    plan: PlanOption = "",
    hw: HardwareOption = "h100",
    precision: PrecisionOption = "bf16",
    kv: CacheOption = None,
    engine: EngineOption = "vllm",
    level: LevelOption = "prior",
    calibration: CalibrationOption = None,
    price: PriceOption = None,
    explain: ExplainOption = False,
    json_file: JsonOption = None,
    html: HtmlOption = None,
) -> None:
    """A static batch: time to first token, time per token, latency, throughput, memory."""
    from stratoscope.llm.estimate import estimate_inference
    from stratoscope.llm.page import page
    from stratoscope.llm.plan import Generation
    from stratoscope.llm.timing import layer_prices
    from stratoscope.report.files import write_text

    served = deployment(model, plan, number_formats(precision, kv), engine, hw, level, calibration)
    work = Generation(batch=batch, prompt=prompt, output=output, cached=cached)
    report = priced(estimate_inference(served, work), price)
    show(report, explain, json_file)
    if html is not None:
        chip, tp = served.efficiency, float(served.plan.tp)
        ops = layer_prices(
            served.model, "prefill", batch, prompt, tp, served.precision, served.engine, chip
        ) + layer_prices(served.model, "decode", batch, prompt, tp, served.precision, served.engine, chip)
        roofs = (chip.hardware.peak(served.precision.compute), chip.hardware.memory_bandwidth)
        write_text(html, page(report, ops=ops, roofs=roofs))


@llm_app.command()
def serve(
    model: ModelOption,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second; absent: the highest rate that holds.")
    ] = None,
    prompt: PromptOption = 1024,
    output: OutputOption = 128,
    prefix_hit: Annotated[float, typer.Option("--prefix-hit", min=0, max=0.999, help="Share of prompt cached.")] = 0.0,
    chunk: Annotated[int, typer.Option("--chunk", min=16, help="Token budget of a step.")] = 2048,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Requests that run at once.")] = 256,
    ttft: Annotated[float | None, typer.Option("--ttft", help="Limit on p99 time to first token, s.")] = None,
    tpot: Annotated[float | None, typer.Option("--tpot", help="Limit on p99 time per token, s.")] = None,
    plan: PlanOption = "",
    hw: HardwareOption = "h100",
    precision: PrecisionOption = "bf16",
    kv: CacheOption = None,
    engine: EngineOption = "vllm",
    level: LevelOption = "prior",
    calibration: CalibrationOption = None,
    price: PriceOption = None,
    json_file: JsonOption = None,
) -> None:
    """A continuous-batching service under Poisson load, simulated on a virtual clock."""
    from stratoscope.llm.serve import Service, highest_rate, simulate, with_interval

    served = deployment(model, plan, number_formats(precision, kv), engine, hw, level, calibration)
    service = Service(
        rate_per_s=finite("--rate", rate) or 1.0, prompt=prompt, output=output, prefix_hit=prefix_hit,
        chunk_tokens=chunk, max_batch=max_batch,
    )  # fmt: skip
    finite("--ttft", ttft), finite("--tpot", tpot), finite("--price", price, above=-1.0)
    done = simulate(served, service) if rate is not None else highest_rate(served, service, ttft_s=ttft, tpot_s=tpot)
    document = with_interval(served, service, done, price).model_dump(mode="json", exclude_none=True)
    write_json(document, json_file)
    if json_file is None or str(json_file) != "-":
        for name, value in document.items():
            typer.echo(f"{name:<22} {value:.5g}" if isinstance(value, float) else f"{name:<22} {value}")


@llm_app.command()
def memory(
    model: ModelOption,
    batch: BatchOption = 1,
    prompt: PromptOption = 1024,
    output: OutputOption = 128,
    global_batch: Annotated[
        int | None,
        typer.Option("--gbs", min=1, help="Ask of a training step of so many sequences.", show_default=False),
    ] = None,
    seq: Annotated[int, typer.Option("--seq", min=1, help="Training: tokens of a sequence.")] = 4096,
    micro_batch: Annotated[int, typer.Option("--mbs", min=1, help="Training: sequences of a microbatch.")] = 1,
    lora: Annotated[
        int | None, typer.Option("--lora", min=1, help="Training: rank of LoRA adapters.", show_default=False)
    ] = None,
    plan: PlanOption = "",
    hw: HardwareOption = "h100",
    precision: PrecisionOption = "bf16",
    kv: CacheOption = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Software; default: vllm, megatron-core with --gbs.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """What serving or training needs, and the inverse: largest batch, longest context, fewest devices."""
    from stratoscope.llm.hf import load_model
    from stratoscope.llm.inverse import memory_answers, training_answers
    from stratoscope.llm.plan import Generation, Lora, ParallelPlan, TrainStep, find_engine
    from stratoscope.llm.render import memory_lines

    spec, split, numbers = load_model(model), ParallelPlan.parse(plan), number_formats(precision, kv)
    chip, software = device(hw, "prior", None), find_engine(engine or ("megatron-core" if global_batch else "vllm"))
    if global_batch is not None:
        adapters = Lora(rank=lora) if lora is not None else None
        step = TrainStep(global_batch=global_batch, micro_batch=micro_batch, seq=seq, lora=adapters)
        answers = training_answers(spec, split, step, numbers, software, chip)
    else:
        work = Generation(batch=batch, prompt=prompt, output=output)
        answers = memory_answers(spec, split, work, numbers, software, chip)
    write_json(answers, json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(memory_lines(answers)))


@llm_app.command()
def search(
    model: ModelOption,
    devices: Annotated[str, typer.Option("--devices", help="Training: 64 or 8,16,64. Serving: the most.")] = "8",
    mode: Annotated[str, typer.Option("--for", help="train or serve.")] = "train",
    global_batch: Annotated[int, typer.Option("--gbs", min=1, help="Training: sequences a step.")] = 256,
    seq: Annotated[int, typer.Option("--seq", min=1, help="Training: tokens of a sequence.")] = 4096,
    prompt: PromptOption = 1024,
    output: OutputOption = 128,
    ttft: Annotated[float | None, typer.Option("--ttft", help="Serving: limit on time to first token, s.")] = None,
    tpot: Annotated[float | None, typer.Option("--tpot", help="Serving: limit on time per token, s.")] = None,
    budget: Annotated[float | None, typer.Option("--budget", help="Training: most dollars per million tokens.")] = None,
    hw: HardwareOption = "h100",
    precision: PrecisionOption = "bf16",
    engine: EngineOption = "generic",
    level: LevelOption = "prior",
    price: PriceOption = None,
    json_file: JsonOption = None,
    html: HtmlOption = None,
) -> None:
    """Explore plans under constraints to a Pareto front."""
    from stratoscope.llm.hf import load_model
    from stratoscope.llm.page import search_page
    from stratoscope.llm.plan import Generation, Precision, find_engine
    from stratoscope.llm.render import search_lines
    from stratoscope.llm.search import TrainingSpace, search_serving, search_training
    from stratoscope.report.files import write_text

    counts = device_counts(devices)
    for name, value in (("--ttft", ttft), ("--tpot", tpot), ("--budget", budget)):
        finite(name, value)
    finite("--price", price, above=-1.0)
    spec, chip = load_model(model), device(hw, level, None)
    numbers, chosen = Precision.preset(precision), find_engine(engine)
    if mode == "train":
        space = TrainingSpace(devices=counts, global_batch=global_batch, seq=seq)
        result = search_training(
            spec, space, numbers, chosen, chip,
            dollars_per_device_hour=price, budget_dollars_per_million_tokens=budget,
        )  # fmt: skip
    elif mode == "serve":
        work = Generation(batch=1, prompt=prompt, output=output)
        result = search_serving(
            spec, work, numbers, chosen, chip, max_devices=max(counts), ttft_s=ttft, tpot_s=tpot,
            dollars_per_device_hour=price,
        )  # fmt: skip
    else:
        raise SpecError(f"--for {mode!r}", hint="train or serve")
    write_json(result.model_dump(mode="json"), json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(search_lines(result)))
    if html is not None:
        write_text(html, search_page(f"{spec.name} on {chip.hardware.name}", result))


@llm_app.command()
def calibrate(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to keep the calibration.")],
    budget: Annotated[float, typer.Option("--budget", min=0.001, help="Seconds spent on each shape.")] = 0.02,
) -> None:
    """Measure this machine through PyTorch and fit the efficiency curves to it."""
    from stratoscope.llm.calibrate import Timer, fit_document, measure

    document = fit_document(measure(Timer(budget)))
    write_json(document, output)
    typer.echo(document["source"])
    for name in ("gemm", "elementwise", "prefill", "decode"):
        curve = document["curves"][name]
        curve = curve["bf16"] if name == "gemm" else curve
        typer.echo(f"{name:<12} mean error of the fit {100 * curve['mae']:.0f} % over {curve['n']} shapes")


@llm_app.command()
def validate(
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Only this suite; repeat for several.")] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Every row, not only the worst.")] = False,
    level: LevelOption = "prior",
    json_file: JsonOption = None,
) -> None:
    """Predict the published rows blind and print how far off each suite is."""
    from stratoscope.llm.efficiency import LEVELS
    from stratoscope.llm.render import suite_lines
    from stratoscope.llm.validate import TITLES, suite_document, validate

    if level not in LEVELS[:2]:
        raise SpecError(f"rows of other machines are judged at level peak or prior, not {level!r}")
    suites = validate("peak" if level == "peak" else "prior", tuple(suite or ()))
    if not suites:
        raise SpecError(f"no suite {', '.join(suite or [])}", hint=f"suites: {', '.join(TITLES)}")
    write_json({"schema": 1, "suites": [suite_document(item) for item in suites]}, json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(suite_lines(suites, rows=rows)))


@llm_app.command()
def hardware(
    name: Annotated[str | None, typer.Argument(help="A device: all its figures with source and date.")] = None,
    json_file: JsonOption = None,
) -> None:
    """The shipped devices, or one with the source of each figure."""
    from stratoscope.llm.hardware import find_hardware, hardware_table
    from stratoscope.llm.render import hardware_lines

    table = hardware_table()
    found = None if name is None else find_hardware(name)
    write_json((table if found is None else found).model_dump(mode="json"), json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(hardware_lines(table, found)))


@llm_app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A question in YAML: model, hardware, plan, train or generate.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    json_file: JsonOption = None,
) -> None:
    """Say why the second run is faster: the parts that changed, largest first."""
    from stratoscope.llm.diff import answer, compare, load_question
    from stratoscope.llm.render import diff_lines

    left, right = (answer(load_question(path), path.parent) for path in (before, after))
    changes = compare(left, right)
    write_json({"schema": 1, "changes": [change.model_dump(mode="json") for change in changes]}, json_file)
    if json_file is None or str(json_file) != "-":
        typer.echo("\n".join(diff_lines(left, right, changes)))

"""A continuous-batching service under load, on a virtual clock: chunked prefill, paged cache, prefix hits, queueing.

Every step of the engine decodes one token for each running request and spends what is left of its token budget on
prefill chunks (Sarathi-Serve, arXiv 2403.02310; vLLM's default scheduler). Requests wait until their cache fits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from pydantic import Field

from stratoscope.llm.base import LlmError, Value
from stratoscope.llm.economics import price_nodes
from stratoscope.llm.infer import Deployment
from stratoscope.llm.memory import PAGE_TOKENS, cache_bytes, serving_parts
from stratoscope.llm.plan import Generation
from stratoscope.llm.report import Total, node_of, total


class Service(Value):
    """Load on a service: Poisson arrivals at `rate_per_s`, fixed prompt and output lengths, a share of prefix hits."""

    rate_per_s: float = Field(gt=0)
    prompt: int = Field(ge=1)
    output: int = Field(ge=2)
    prefix_hit: float = Field(default=0.0, ge=0, lt=1)
    chunk_tokens: int = Field(default=2048, ge=16)
    max_batch: int = Field(default=256, ge=1)
    requests: int = Field(default=2000, ge=10)
    seed: int = 0


class ServiceReport(Value):
    """What the service does: times per request in seconds, throughput, how full batch and cache ran."""

    stable: bool
    rate_per_s: float
    completed_per_s: float
    output_tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    tpot_low_s: float
    tpot_high_s: float
    mean_batch: float
    peak_cache_share: float
    cache_tokens: int
    level: str
    bound: str = ""  # of the median decode step
    ttft_p50_low_s: float | None = None
    ttft_p50_high_s: float | None = None
    ttft_p99_low_s: float | None = None
    ttft_p99_high_s: float | None = None
    device_s_per_million_tokens: float | None = None
    joule_per_token: float | None = None
    dollar_per_million_tokens: float | None = None


@dataclass
class _Request:
    arrival: float
    to_prefill: int
    done: int = 0
    first: float = 0.0


@dataclass
class _Tables:
    """Step times on grids, so that the simulation only interpolates."""

    batches: npt.NDArray[np.float64]
    short: npt.NDArray[np.float64]  # decode at the prompt's length
    slope: npt.NDArray[np.float64]  # seconds per context token, all sequences together
    chunks: npt.NDArray[np.float64]
    prefill: npt.NDArray[np.float64]
    launch: float  # the part of a prefill pass that a mixed step pays once with its decode
    context: float = 0.0
    cache: dict[int, tuple[float, float]] = field(default_factory=dict)

    def decode(self, running: int, mean_context: float) -> float:
        if running == 0:
            return 0.0
        if running not in self.cache:
            self.cache[running] = (
                float(np.interp(running, self.batches, self.short)),
                float(np.interp(running, self.batches, self.slope)),
            )
        base, slope = self.cache[running]
        return base + slope * (mean_context - self.context)

    def extra_prefill(self, tokens: int, running: int) -> float:
        if tokens == 0:
            return 0.0
        time = float(np.interp(tokens, self.chunks, self.prefill))
        return time if running == 0 else max(time - self.launch, 0.0)


def cache_capacity(deployment: Deployment, service: Service) -> int:
    """Tokens of cache that fit beside weights, workspace and reserve; raises LlmError where not one request fits."""
    work = Generation(batch=1, prompt=service.prompt, output=service.output)
    parts = serving_parts(
        deployment.model, deployment.plan, work, deployment.precision, deployment.engine,
        prefill_tokens=float(service.chunk_tokens), batch=float(service.max_batch), context=1.0,
    )  # fmt: skip
    fixed = sum(float(np.max(value)) for name, value in parts.items() if name != "cache")
    fraction = deployment.engine.kv_preallocated_fraction or 1.0
    free = deployment.efficiency.hardware.memory * fraction - fixed
    kv = deployment.formats.kv
    length = service.prompt + service.output
    each = float(np.max(cache_bytes(deployment.model, 1.0, float(length), deployment.plan.tp, deployment.plan.pp, kv)))
    if free < each:
        raise LlmError(
            f"{deployment.model.name}: no request of {length} tokens fits on {deployment.efficiency.hardware.name}",
            hint=f"{(each - free) / 2**30:.1f} GiB short a device: more devices, fewer bits, or a shorter context",
        )
    return int(free // each) * length


def _tables(deployment: Deployment, service: Service, slower: float) -> _Tables:
    batches = np.unique(np.round(np.geomspace(1, service.max_batch, 24)))
    low, high = float(service.prompt), float(service.prompt + service.output)
    short = np.array([float(np.max(deployment.decode(int(n), low).time)) for n in batches])
    long = np.array([float(np.max(deployment.decode(int(n), high).time)) for n in batches])
    chunks = np.unique(np.round(np.geomspace(1, service.chunk_tokens, 16)))
    prefill = np.array([float(np.max(deployment.prefill(1, float(n)).time)) for n in chunks])
    # a mixed step reads the weights once: what a one-token pass costs is already in its decode
    slope = slower * (long - short) / max(high - low, 1.0)
    return _Tables(batches, slower * short, slope, chunks, slower * prefill, slower * float(prefill[0]), low)


def simulate(deployment: Deployment, service: Service, *, slower: float = 1.0) -> ServiceReport:
    """Runs `service.requests` arrivals through the engine; the first tenth warms up and is not counted.

    Data-parallel replicas share the arrivals evenly. `stable` is false when the queue grows through the run: the rate
    is beyond what the deployment sustains. `slower` multiplies the time of every step.
    """
    replicas = deployment.plan.dp
    if replicas > 1:
        alone = replace(deployment, plan=deployment.plan.model_copy(update={"dp": 1}))
        share = service.model_copy(update={"rate_per_s": service.rate_per_s / replicas})
        one = simulate(alone, share, slower=slower)
        whole = {
            name: getattr(one, name) * replicas for name in ("rate_per_s", "completed_per_s", "output_tokens_per_s")
        }
        return one.model_copy(update=whole)
    capacity = cache_capacity(deployment, service)
    tables = _tables(deployment, service, slower)
    generator = np.random.default_rng(service.seed)
    arrivals = np.cumsum(generator.exponential(1.0 / service.rate_per_s, service.requests))
    hit = int(service.prompt * service.prefix_hit)
    pages = -(-(service.prompt + service.output) // PAGE_TOKENS) * PAGE_TOKENS
    waiting: deque[_Request] = deque(_Request(float(at), service.prompt - hit) for at in arrivals)
    prefilling: deque[_Request] = deque()
    decoding: list[_Request] = []
    finished: list[tuple[float, _Request]] = []
    clock = weighted_batch = busy = peak_used = 0.0
    while waiting or prefilling or decoding:
        if not prefilling and not decoding and waiting:
            clock = max(clock, waiting[0].arrival)
        room = min(service.max_batch, capacity // pages) - len(prefilling) - len(decoding)
        while room > 0 and waiting and waiting[0].arrival <= clock:
            prefilling.append(waiting.popleft())
            room -= 1
        budget, chunk = max(service.chunk_tokens - len(decoding), 0), 0
        completed: list[_Request] = []
        while prefilling and budget > 0:
            part = min(budget, prefilling[0].to_prefill)
            prefilling[0].to_prefill -= part
            budget, chunk = budget - part, chunk + part
            if prefilling[0].to_prefill == 0:
                completed.append(prefilling.popleft())
        context = service.prompt + (sum(request.done for request in decoding) / len(decoding) if decoding else 0.0)
        step = tables.decode(len(decoding), context) + tables.extra_prefill(chunk, len(decoding))
        clock, busy = clock + step, busy + step
        weighted_batch += step * len(decoding)
        peak_used = max(peak_used, (len(decoding) + len(completed) + len(prefilling)) * pages / capacity)
        for request in decoding:
            request.done += 1
        for request in completed:
            request.first, request.done = clock, 1
        ended = [request for request in decoding if request.done >= service.output]
        finished += [(clock, request) for request in ended]
        decoding = [request for request in decoding if request.done < service.output] + completed
    return _summary(deployment, service, finished, arrivals, weighted_batch / max(busy, 1e-12), peak_used, capacity)


def _summary(
    deployment: Deployment, service: Service, finished: list[tuple[float, _Request]],
    arrivals: npt.NDArray[np.float64], mean_batch: float, peak_used: float, capacity: int,
) -> ServiceReport:  # fmt: skip
    counted = sorted(finished, key=lambda pair: pair[1].arrival)[service.requests // 10 :]
    first = np.array([request.first - request.arrival for _, request in counted])
    per_token = np.array([(end - request.first) / (service.output - 1) for end, request in counted])
    ends = np.array([end for end, _ in counted])
    span = float(ends.max() - arrivals[service.requests // 10])
    rate = len(counted) / span
    offered = len(counted) / float(arrivals[-1] - arrivals[service.requests // 10])
    half = len(first) // 2
    grows = float(np.median(first[half:])) > 3.0 * float(np.median(first[:half])) + 10.0 * float(per_token.min())
    terms = deployment.decode(max(1, round(mean_batch)), float(service.prompt)).terms
    middle: Total = total(terms)
    low, high = float(np.max(middle.low / middle.time)), float(np.max(middle.high / middle.time))
    typical = float(np.median(per_token))
    return ServiceReport(
        stable=not grows and rate > 0.9 * offered,
        rate_per_s=service.rate_per_s,
        completed_per_s=rate,
        output_tokens_per_s=rate * service.output,
        ttft_p50_s=float(np.median(first)),
        ttft_p99_s=float(np.quantile(first, 0.99)),
        tpot_p50_s=typical,
        tpot_p99_s=float(np.quantile(per_token, 0.99)),
        tpot_low_s=typical * low,
        tpot_high_s=typical * high,
        mean_batch=mean_batch,
        peak_cache_share=min(1.0, peak_used),
        cache_tokens=capacity,
        level=deployment.efficiency.level,
        bound=node_of("decode step", terms).bound,
    )


def with_interval(
    deployment: Deployment, service: Service, report: ServiceReport, price: float | None = None
) -> ServiceReport:
    """The report with times to the first token at the ends of the step's interval, and the cost of its tokens.

    Queueing is not linear, so the load is run again with every step at the low and at the high end. Tokens cost the
    time of all devices, busy or waiting; `price` is in dollars per device and hour.
    """
    at = service.model_copy(update={"rate_per_s": report.rate_per_s})
    ends = [report.tpot_low_s / report.tpot_p50_s, report.tpot_high_s / report.tpot_p50_s]
    fast, slow = (simulate(deployment, at, slower=factor) for factor in ends)
    world = deployment.plan.world
    seconds = 1.0 / report.output_tokens_per_s
    nodes = price_nodes(deployment.efficiency.hardware, world, Total(seconds, seconds, seconds), 1.0, busy=0.6)
    spent = nodes["device_s_per_million_tokens"].value
    return report.model_copy(
        update={
            "ttft_p50_low_s": fast.ttft_p50_s, "ttft_p50_high_s": slow.ttft_p50_s, "ttft_p99_low_s": fast.ttft_p99_s,
            "ttft_p99_high_s": slow.ttft_p99_s, "device_s_per_million_tokens": spent,
            "joule_per_token": nodes["joule_per_token"].value if "joule_per_token" in nodes else None,
            "dollar_per_million_tokens": None if price is None else spent * price / 3600.0,
        }
    )  # fmt: skip


def saturated(deployment: Deployment, prompt: int, output: int) -> tuple[float, Total]:
    """The batch and the output tokens per second of a service that is never idle: all requests wait at its door.

    Each request costs its share of `output` decode steps and a prefill that shares its pass with others; the batch is
    the one, of those whose cache fits beside the weights, that serves most. Raises LlmError where none fits.
    """
    engine, hardware = deployment.engine, deployment.efficiency.hardware
    together = max(1, (engine.prefill_token_budget or prompt) // prompt)
    pre = deployment.prefill(together, float(prompt))
    work = Generation(batch=1, prompt=prompt, output=output)
    best: tuple[float, Total] | None = None
    for count in np.unique(np.round(2 ** np.arange(0, 12.01, 0.25))).astype(int):
        parts = serving_parts(
            deployment.model, deployment.plan, work, deployment.precision, engine,
            prefill_tokens=float(together * prompt), batch=float(count),
        )  # fmt: skip
        held = {name: float(np.max(value)) for name, value in parts.items()}
        free = hardware.memory - (sum(held.values()) - held["cache"])
        if held["cache"] > (engine.kv_preallocated_fraction or 1.0) * free:
            break
        step = deployment.decode(int(count), prompt + output / 2)
        middle, fast, slow = (
            count * output / (output * float(np.max(decode)) + count * float(np.max(prefill)) / together)
            for decode, prefill in ((step.time, pre.time), (step.low, pre.low), (step.high, pre.high))
        )
        if best is None or middle > float(best[1].time):
            best = float(count), Total(middle, slow, fast)
    if best is None:
        raise LlmError(f"{deployment.model.name}: no request of {prompt + output} tokens fits on {hardware.name}")
    return best


def highest_rate(
    deployment: Deployment, service: Service, *, ttft_s: float | None = None, tpot_s: float | None = None
) -> ServiceReport:
    """The report at the highest arrival rate that is stable and keeps both 99th percentiles within their limits.

    Bisection between 1 % and 200 % of the rate of the full batch. Raises LlmError where even the lowest misses them.
    """
    step = float(np.max(deployment.decode(service.max_batch, float(service.prompt)).time))
    full = deployment.plan.dp * service.max_batch / (service.output * step)
    low, high = 0.01 * full, 2.0 * full
    best: ServiceReport | None = None
    for _ in range(12):
        middle = (low * high) ** 0.5
        report = simulate(deployment, service.model_copy(update={"rate_per_s": middle}))
        good = report.stable and (ttft_s is None or report.ttft_p99_s <= ttft_s)
        if good and (tpot_s is None or report.tpot_p99_s <= tpot_s):
            best, low = report, middle
        else:
            high = middle
    if best is None:
        raise LlmError("no arrival rate meets the limits", hint="relax ttft or tpot, or use more devices")
    return best

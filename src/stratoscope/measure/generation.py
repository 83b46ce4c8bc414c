"""Generation: time to the first token, time of the others, and the size of the key-value cache."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import polars as pl

from stratoscope.backends.base import Feeds
from stratoscope.spec.profile import GenerationSection
from stratoscope.stats.estimators import estimate
from stratoscope.stats.quantity import Quantity
from stratoscope.trace.correlate import assign_parents, assign_sites
from stratoscope.trace.levels import Level
from stratoscope.trace.spans import SPAN_SCHEMA

NEW_TOKENS: Final = 32
_FEWEST: Final = 5
_MOST: Final = 200
_NS: Final = 1e-9


def measure_generation(
    session: Any, feeds: Feeds, *, budget_s: float, new_tokens: int = NEW_TOKENS
) -> tuple[GenerationSection, pl.DataFrame]:
    """Generations of `new_tokens` for about `budget_s` seconds, unprofiled but for one clock reading a token.

    Returns the section, and spans: an APPLICATION span "generate" each, with a MODEL span for prefill and for each
    token after it.
    """
    session.generate(feeds, min(4, new_tokens))
    runs: list[Any] = []
    end = time.perf_counter() + budget_s
    while len(runs) < _FEWEST or (time.perf_counter() < end and len(runs) < _MOST):
        runs.append(session.generate(feeds, new_tokens))
    batch, prompt = feeds["input_ids"].shape
    ttft = np.array([run.ends_ns[0] - run.start_ns for run in runs]) * _NS
    whole = np.array([run.ends_ns[-1] - run.start_ns for run in runs]) * _NS
    decode = np.array([run.ends_ns[-1] - run.ends_ns[0] for run in runs]) * _NS
    later = new_tokens - 1
    absent = "one token was generated: there is no decode"
    held = prompt + new_tokens - 1  # the last token is not fed back
    section = GenerationSection(
        prompt_tokens=prompt,
        new_tokens=new_tokens,
        batch_size=batch,
        ttft=estimate(ttft, "s", "median"),
        tpot=estimate(decode / later, "s", "median") if later else Quantity.unavailable("s", absent, "median"),
        tokens_per_s=estimate(batch * new_tokens / whole, "1/s", "median"),
        decode_tokens_per_s=estimate(batch * later / decode, "1/s", "median")
        if later
        else Quantity.unavailable("1/s", absent, "median"),
        cache_bytes=Quantity.exact(runs[-1].cache_bytes, "byte"),
        cache_bytes_per_token=Quantity.exact(runs[-1].cache_bytes / (batch * held), "byte"),
        note=f"greedy, {len(runs)} generations of {batch} sequence{'s' if batch > 1 else ''}",
    )
    return section, _spans(runs)


def _spans(runs: list[Any]) -> pl.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for number, run in enumerate(runs):
        rows.append((len(rows), Level.APPLICATION.value, "generate", run.start_ns, run.ends_ns[-1], number))
        start = run.start_ns
        for place, end in enumerate(run.ends_ns):
            rows.append((len(rows), Level.MODEL.value, "decode" if place else "prefill", start, end, number))
            start = end
    columns = ("span", "level", "name", "start_ns", "end_ns", "run")
    frame = pl.DataFrame(rows, schema={name: SPAN_SCHEMA[name] for name in columns}, orient="row").with_columns(
        parent=pl.lit(None, dtype=pl.Int64),
        kind=pl.lit("sync").cast(SPAN_SCHEMA["kind"]),
        track=pl.lit(0, dtype=pl.Int64),
        correlation=pl.lit(0, dtype=pl.Int64),
        site=pl.lit(None, dtype=pl.String),
        attributes=pl.lit(None, dtype=pl.String),
    )
    return assign_sites(assign_parents(frame.select(list(SPAN_SCHEMA))))

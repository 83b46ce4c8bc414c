"""What a load left behind: when each query was due, sent and answered; raw, before any statistic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stratoscope.spec.record import NoiseRecord

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One row a sample; a query carries several in the multi-stream and offline scenarios.

    Attributes:
        query: number of the query, in the order of issue.
        sample: which of the prepared inputs it asked for.
        scheduled_ns: when it was meant to be sent; for closed loops, when it was sent.
        issued_ns: when it was sent.
        completed_ns: when its answer was there. All three from the start of the load; where LoadGen does not tell
            that, from the scheduled time of the first query.
        noise: what the machine did meanwhile.
        interrupted: Ctrl-C ended the load; the rows are those that were answered before.
        source: whose schedule and clock it was.
        loadgen: LoadGen's own results, as its logs have them.
        losses: what was sent or due and not answered; makes the load invalid.
        notes: what else a reader of the figures must know.
    """

    query: Times
    sample: Times
    scheduled_ns: Times
    issued_ns: Times
    completed_ns: Times
    noise: NoiseRecord
    interrupted: bool
    source: Literal["loadgen", "stratoscope"]
    loadgen: dict[str, Any] = field(default_factory=dict)
    losses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def queries(self) -> int:
        """Number of queries with at least one answered sample."""
        return int(np.unique(self.query).size)

    def duration_s(self) -> float:
        """Seconds from the first intended send time to the last answer; 0 where nothing was answered."""
        if self.query.size == 0:
            return 0.0
        return float(self.completed_ns.max() - self.scheduled_ns.min()) / 1e9

    def sample_latencies_ns(self) -> Times:
        """Latency of each sample, from the intended send time."""
        return self.completed_ns - self.scheduled_ns

    def query_latencies_ns(self) -> Times:
        """Latency of each query until the last of its samples, in the order of issue."""
        _, which = np.unique(self.query, return_inverse=True)
        latencies = np.zeros(self.queries, dtype=np.int64)
        np.maximum.at(latencies, which, self.sample_latencies_ns())
        return latencies

    def send_lags_ns(self) -> Times:
        """How much later than intended each sample was sent."""
        return self.issued_ns - self.scheduled_ns

    def frame(self) -> pl.DataFrame:
        """The rows as the store keeps them: Int64 columns query, sample, scheduled_ns, issued_ns, completed_ns."""
        columns = ("query", "sample", "scheduled_ns", "issued_ns", "completed_ns")
        return pl.DataFrame({name: getattr(self, name) for name in columns}, schema=dict.fromkeys(columns, pl.Int64))

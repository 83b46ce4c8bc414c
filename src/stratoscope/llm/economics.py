"""What time costs: money per million tokens and energy per token, from the price of a device-hour and its power."""

from __future__ import annotations

import numpy as np

from stratoscope.llm.hardware import HardwareSpec
from stratoscope.llm.report import Node, Report, Total

IDLE_SHARE = (
    0.3  # of TDP that an idle but powered accelerator draws; recalled from nvidia-smi readings of A100 and H100
)
NODE_OVERHEAD = 1.5  # host, network, fans and conversion over the accelerators' own power; DGX-class nodes, recalled


def energy_nodes(hardware: HardwareSpec, devices: int, time: Total, tokens: float, busy: float) -> dict[str, Node]:
    """Joules per token: devices x power x node overhead x time / tokens; power between idle share and TDP by `busy`."""
    if hardware.tdp_w is None:
        return {}
    share = IDLE_SHARE + (1.0 - IDLE_SHARE) * min(1.0, busy / 0.5)
    watts = devices * hardware.tdp_w.value * NODE_OVERHEAD
    middle, low, high = (float(np.max(part)) for part in (time.time, time.low, time.high))
    return {
        "joule_per_token": Node(
            name="joule_per_token",
            value=watts * share * middle / tokens,
            unit="J",
            low=watts * IDLE_SHARE * low / tokens,
            high=watts * high / tokens,
            formula="devices x TDP x (idle + load share) x node overhead x time / tokens",
            source=f"TDP: {hardware.tdp_w.source}; shares recalled",
        )
    }


def cost_node(devices: int, dollars_per_device_hour: float, time: Total, tokens: float) -> Node:
    """Dollars per million tokens at a price per device and hour."""
    rate = devices * dollars_per_device_hour / 3600.0 / tokens * 1e6
    middle, low, high = (float(np.max(part)) for part in (time.time, time.low, time.high))
    return Node(
        name="dollar_per_million_tokens",
        value=rate * middle,
        unit="$",
        low=rate * low,
        high=rate * high,
        formula="devices x $/h x time / tokens x 1e6",
        source="price given by the caller",
    )


def price_nodes(hardware: HardwareSpec, devices: int, time: Total, tokens: float, *, busy: float) -> dict[str, Node]:
    """Device-seconds per million tokens (times a price: cost) and energy per token."""
    unit_cost = cost_node(devices, 3600.0, time, tokens)
    seconds = unit_cost.model_copy(
        update={
            "name": "device_s_per_million_tokens",
            "unit": "s",
            "formula": "devices x time / tokens x 1e6",
            "source": "",
        }
    )
    return {"device_s_per_million_tokens": seconds, **energy_nodes(hardware, devices, time, tokens, busy)}


def priced(report: Report, dollars_per_device_hour: float) -> Report:
    """The report with a cost per million tokens at a price per device and hour."""
    seconds = report.results["device_s_per_million_tokens"]
    rate = dollars_per_device_hour / 3600.0
    node = seconds.model_copy(
        update={
            "name": "dollar_per_million_tokens", "unit": "$", "value": rate * seconds.value, "low": rate * seconds.low,
            "high": rate * seconds.high, "formula": f"device seconds x ${dollars_per_device_hour:g}/h",
        }
    )  # fmt: skip
    return report.model_copy(update={"results": {**report.results, "dollar_per_million_tokens": node}})

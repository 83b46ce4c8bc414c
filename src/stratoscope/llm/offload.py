"""Time of an optimizer with its states in the host's memory: gradients go there, Adam runs there, weights come back."""

from __future__ import annotations

import numpy as np

from stratoscope.llm.base import Num, UnsupportedError
from stratoscope.llm.efficiency import Cost, Efficiency
from stratoscope.llm.report import Term

# Adam on both sockets of one host: 10e9 parameters in 2.57 s (ZeRO-Offload, arXiv 2101.06840 tab. 4, recalled).
HOST_ADAM_PARAMS_PER_S = 10e9 / 2.57
HOST_DEVICES = 8.0  # devices that share a host; DGX and HGX boards
LINK_SHARE = 0.8  # of a host link's rate that pinned copies reach; recalled
WIRE_BYTES = 2.0  # of a gradient on its way down and of a weight on its way up, both in 16 bits


def offloaded_optimizer(params: Num, world: Num, window: Num, efficiency: Efficiency) -> Term:
    """The optimizer step of `params` parameters on each of `world` devices.

    Gradients leave while the backward pass runs (`window` seconds hide them); updated weights return in tiles while
    Adam updates the next ones (arXiv 2101.06840 s. 4.1, 5.1). The devices of a host share its processors.

    Raises UnsupportedError for a device without a known link to its host.
    """
    link = efficiency.hardware.host_bytes_per_s
    if link is None:
        raise UnsupportedError(
            f"{efficiency.hardware.name} has no host link in its description", hint="use a plan without offload"
        )
    wire = np.asarray(params, dtype=float) * WIRE_BYTES / (LINK_SHARE * link.value)
    adam = params * np.minimum(world, HOST_DEVICES) / HOST_ADAM_PARAMS_PER_S
    time = np.maximum(wire - window, 0.0) + np.maximum(adam, wire)
    cost = Cost(time, 0.5 * time, 2.0 * time, adam, wire, 0.0, "host Adam", efficiency.level)
    return Term("optimizer", "Adam on the host", cost, 1.0, 0.0, "host")

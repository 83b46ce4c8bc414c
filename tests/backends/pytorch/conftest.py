"""A small network with nested modules, a convolution that oneDNN runs and products that MKL runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stratoscope.spec.model import LoadableModel, ModelManifest, TensorSpec


class Block(nn.Module):  # type: ignore[misc]
    """A residual block: two convolutions, and an addition that belongs to no module inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.relu(value + self.second(torch.relu(self.first(value))))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    ).eval()


@pytest.fixture
def small() -> LoadableModel:
    """The network as a module, for one image of 48 pixels a side."""
    inputs = (TensorSpec(name="image", element_type="float32", shape=(2, 3, 48, 48)),)
    outputs = (TensorSpec(name="scores", element_type="float32", shape=(2, 10)),)
    return LoadableModel(ModelManifest(id="small", inputs=inputs, outputs=outputs), module=network())


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """Two images for `small`."""
    return {"image": np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)}

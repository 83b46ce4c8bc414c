"""Work of recurrent layers: two matrix products a gate and step, and the element-wise cell."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from stratoscope.graph.ir import Layer, Work
from stratoscope.graph.work_functions.common import ONNX, Functions, WorkFunction, build, dims, given

_SIGMOID, _TANH = 4, 1  # operations, as element-wise operators count them
#: Element-wise operations a hidden unit and step, without the two products and the biases, of the default cell:
#: RNN: the sum of both products, tanh. GRU: sums of three gates, two sigmoids, tanh, r * h, (1 - z) * n + z * h.
#: LSTM: sums of four gates, three sigmoids, tanh twice, f * c + i * g, o * tanh(c).
_CELL: Final = MappingProxyType(
    {"RNN": 1 + _TANH, "GRU": 3 + 2 * _SIGMOID + _TANH + 1 + 4, "LSTM": 4 + 3 * _SIGMOID + 2 * _TANH + 4}
)


def _recurrent(gates: int) -> WorkFunction:
    def work(layer: Layer) -> Work:
        data, weight = dims(layer.inputs[0]), dims(given(layer, 1))
        steps = (
            data[0] * data[1]
        )  # steps of all sequences; layout 0 is [step, batch, ...], layout 1 swaps them: the product is one
        directions, hidden = weight[0], weight[1] // gates
        units = steps * directions * hidden
        biases = 2 * gates if given(layer, 3) is not None else 0
        peepholes = 6 if given(layer, 7) is not None else 0  # a product and an addition for three gates
        return build(
            layer,
            macs=units * gates * (weight[2] + hidden),
            other=units * (_CELL[layer.op] + biases + peepholes),
        )

    return work


FUNCTIONS: Final[Functions] = MappingProxyType(
    {(ONNX, "RNN"): _recurrent(1), (ONNX, "GRU"): _recurrent(3), (ONNX, "LSTM"): _recurrent(4)}
)

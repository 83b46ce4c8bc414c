"""Times of layers that were never measured, learned from measured ones: physics first, then what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from stratoscope.errors import MeasurementError
from stratoscope.explain.predict.placement import LayerFacts, as_array
from stratoscope.explain.predict.scaling import Resources

#: Operators that work alike, so that one can tell of another; the last word of an operator's name counts.
FAMILIES: Final = (
    ("ReorderInput", "ReorderOutput", "Transpose", "Concat", "Split", "Slice", "Pad", "Gather", "Expand"),
    ("Relu", "Erf", "Sqrt", "Tanh", "Sigmoid", "FastGelu", "QuickGelu", "Gelu", "Clip", "Neg"),
    ("Add", "Mul", "Div", "Sub", "Sum", "Where", "Pow"),
    ("ReduceMean", "Softmax", "LayerNormalization", "SkipLayerNormalization", "GlobalAveragePool", "LRN"),
    ("MaxPool", "AveragePool"),
    ("Conv", "FusedConv"),
    ("Gemm", "MatMul", "FusedGemm", "FusedMatMul", "Attention"),
)
TREES: Final = 300
LEAST_ROWS: Final = 20


class LearnedLayers:
    """Predicts layers from the facts of measured ones.

    The logarithm of time over `LayerFacts.seconds` (roofs by cache level) is learned by extremely randomised trees
    (Geurts et al., 2006) over features, operators and families. Trees do not extrapolate, the physics under them does.
    """

    def __init__(self, measured: Sequence[tuple[LayerFacts, float]], resources: Resources, seed: int = 0) -> None:
        """Learns. Raises MeasurementError where there are fewer than 20 layers, or no scikit-learn."""
        try:
            from sklearn.ensemble import ExtraTreesRegressor
        except ImportError:
            raise MeasurementError(
                "learning layer times needs scikit-learn", hint="pip install 'stratoscope[train]'"
            ) from None
        rows = [(facts, seconds) for facts, seconds in measured if seconds > 0]
        if len(rows) < LEAST_ROWS:
            raise MeasurementError(f"{len(rows)} measured layers: at least {LEAST_ROWS} are needed to learn from")
        self._resources = resources
        self._operators = sorted({facts.operator for facts, _ in rows})
        self._trees = ExtraTreesRegressor(n_estimators=TREES, max_features=0.5, random_state=seed, n_jobs=1)
        layers = [facts for facts, _ in rows]
        self._trees.fit(self._inputs(layers), np.log([seconds for _, seconds in rows]) - self._physics(layers))

    def predict(self, layers: Sequence[LayerFacts]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Seconds of each layer."""
        if not layers:
            return np.zeros(0)
        return np.asarray(np.exp(self._physics(layers) + self._trees.predict(self._inputs(layers))))

    def _physics(self, layers: Sequence[LayerFacts]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.log([facts.seconds(self._resources) for facts in layers])

    def _inputs(self, layers: Sequence[LayerFacts]) -> np.ndarray[Any, np.dtype[np.float64]]:
        names = [facts.operator.rpartition(".")[2] for facts in layers]
        operators = [[float(facts.operator == one) for one in self._operators] for facts in layers]
        families = [[float(name in family) for family in FAMILIES] for name in names]
        physics = self._physics(layers)[:, None]
        return np.hstack([as_array(layers), physics, np.array(operators), np.array(families)])

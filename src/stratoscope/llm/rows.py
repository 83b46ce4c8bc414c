"""The published rows of `stratoscope llm validate`: each a question to the model and the number that was measured."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from stratoscope.llm.base import Value
from stratoscope.llm.spec import Attention, FeedForward, Layer, ModelSpec


class RowModel(Value):
    """A model as published tables give it: its dimensions."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool
    tied: bool
    bias: bool
    position: str
    parallel_block: bool = False

    def spec(self, positions: int = 2048) -> ModelSpec:
        """The ModelSpec of these dimensions: LayerNorms with biases for ungated models, RMS norms for gated ones."""
        attention = Attention(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            qkv_bias=self.bias,
            out_bias=self.bias,
            rotary=self.position == "rope",
        )
        per_norm = self.hidden if self.gated else 2 * self.hidden
        layer = Layer(
            mixer=attention,
            ffn=FeedForward(width=self.ffn, gated=self.gated, bias=self.bias),
            norm_params=per_norm * (1 if self.parallel_block else 2),
            parallel=self.parallel_block,
        )
        learned = (("positions", positions * self.hidden),) if self.position == "learned" else ()
        return ModelSpec(
            name=self.name,
            family="published table",
            hidden=self.hidden,
            vocab=self.vocab,
            layers=(layer,) * self.layers,
            tied=self.tied,
            extra_params=(*learned, ("final norm", per_norm)),
        )


class Row(Value):
    """One published number."""

    id: str
    suite: str
    source: str
    confidence: str
    kind: str
    model: RowModel
    hardware: dict[str, Any]
    parallel: dict[str, Any]
    dtype: dict[str, str]
    workload: dict[str, Any]
    engine: dict[str, Any]
    metric: str
    value: float
    unit: str
    note: str = ""
    reported: dict[str, Any] = {}


@cache
def shipped_rows() -> tuple[Row, ...]:
    """All rows that ship with the project; parsed once. Lines without a suite say what differs from the one before."""
    text = resources.files("stratoscope.llm").joinpath("data/rows.jsonl").read_text(encoding="utf-8")
    rows: list[Row] = []
    fields: dict[str, Any] = {}
    for line in filter(None, text.splitlines()):
        given = json.loads(line)
        fields = given if "suite" in given else {**fields, **given}
        rows.append(Row.model_validate(fields))
    return tuple(rows)

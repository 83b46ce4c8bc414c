"""Writes data/model_error.json: the stretch of intervals that covers 90 % of the shipped rows, for train and infer.

    python benchmarks/llm_fit_model_error.py

It stretches the intervals of `stratoscope llm train|infer`; `validate` uses the other suites' instead.
"""

from __future__ import annotations

import json
from pathlib import Path

from stratoscope.llm.rows import shipped_rows
from stratoscope.llm.validate import KINDS, conformal_stretch, predict


def main() -> None:
    out: dict[str, object] = {"source": "benchmarks/llm_fit_model_error.py over the suites " + ", ".join(KINDS)}
    for kind in ("train", "infer"):
        rows = [row for row in shipped_rows() if KINDS.get(row.suite) == kind]
        out[kind] = round(conformal_stretch([predict(row) for row in rows]), 3)
    target = Path(__file__).parents[1] / "src/stratoscope/llm/data/model_error.json"
    target.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()

"""Writes data/model_error.json: measured over predicted time of the shipped rows at p10 and p90, for train and infer.

    python benchmarks/llm_fit_model_error.py

It widens the intervals of `stratoscope llm train|infer`; `validate` does not read it but uses the other suites' errors.
"""

from __future__ import annotations

import json
from pathlib import Path

from stratoscope.llm.rows import shipped_rows
from stratoscope.llm.validate import KINDS, error_factor, predict


def main() -> None:
    out: dict[str, object] = {"source": "benchmarks/llm_fit_model_error.py over the suites " + ", ".join(KINDS)}
    for kind in ("train", "infer"):
        rows = [row for row in shipped_rows() if KINDS.get(row.suite) == kind]
        factors = error_factor([predict(row) for row in rows])
        out[kind] = [round(factor, 3) for factor in factors]
    target = Path(__file__).parents[1] / "src/stratoscope/llm/data/model_error.json"
    target.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()

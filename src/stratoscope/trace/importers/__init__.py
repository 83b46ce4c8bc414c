"""Reads traces that other software wrote into span tables: one module a format, `import_trace` for any of them."""

from __future__ import annotations

from stratoscope.trace.importers.detect import FORMATS, import_nonempty, import_trace
from stratoscope.trace.importers.imported import TRACK_SCHEMA, ImportedTrace, ImportReport

__all__ = ["FORMATS", "TRACK_SCHEMA", "ImportReport", "ImportedTrace", "import_nonempty", "import_trace"]

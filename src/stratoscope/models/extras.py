"""Whether the optional packages that some models need are installed."""

from __future__ import annotations

import importlib.util

from stratoscope.errors import ModelError


def require_torch(what: str) -> None:
    """Raises ModelError unless the torch extra is installed; imports nothing."""
    missing = [name for name in ("torch", "transformers", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{what} needs the torch extra ({', '.join(missing)} not installed)",
            hint="pip install 'stratoscope[torch]'",
        )

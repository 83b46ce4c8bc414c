"""An analytical model of transformer training and serving: time, memory, cost and energy before the hardware is
there.
"""

from stratoscope.llm.base import LlmError, UnknownArchitectureError, UnsupportedError
from stratoscope.llm.hf import from_hf
from stratoscope.llm.spec import ModelSpec

__all__ = ["LlmError", "ModelSpec", "UnknownArchitectureError", "UnsupportedError", "from_hf"]

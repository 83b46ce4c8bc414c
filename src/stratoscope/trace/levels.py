"""The levels of the stack at which a span can stand, with gaps so that a level can be added between two."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """A level of the stack; a smaller number encloses a larger one."""

    APPLICATION = 10
    MODEL = 20
    LAYER = 30
    OPERATOR = 40
    LIBRARY = 50
    KERNEL = 60
    HARDWARE = 70

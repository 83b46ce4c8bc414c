"""Element types of tensors: ONNX's codes, the names we use for them, and the bits that an element takes."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

#: ONNX TensorProto.DataType -> (name, bits of a stored element). Sub-byte types are packed, as ONNX stores them.
#: Names are those of NumPy and ml_dtypes. Strings have no fixed size.
_TYPES: Final = MappingProxyType(
    {
        1: ("float32", 32),
        2: ("uint8", 8),
        3: ("int8", 8),
        4: ("uint16", 16),
        5: ("int16", 16),
        6: ("int32", 32),
        7: ("int64", 64),
        8: ("string", None),
        9: ("bool", 8),
        10: ("float16", 16),
        11: ("float64", 64),
        12: ("uint32", 32),
        13: ("uint64", 64),
        14: ("complex64", 64),
        15: ("complex128", 128),
        16: ("bfloat16", 16),
        17: ("float8_e4m3fn", 8),
        18: ("float8_e4m3fnuz", 8),
        19: ("float8_e5m2", 8),
        20: ("float8_e5m2fnuz", 8),
        21: ("uint4", 4),
        22: ("int4", 4),
        23: ("float4_e2m1fn", 4),
        24: ("float8_e8m0fnu", 8),
        25: ("uint2", 2),
        26: ("int2", 2),
    }
)
_BITS: Final = MappingProxyType(dict(_TYPES.values()))
_CODES: Final = MappingProxyType({name: code for code, (name, _) in _TYPES.items()})
_SHORT: Final = MappingProxyType({"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"})


def type_name(code: int) -> str | None:
    """The name of an ONNX element type code; None for 0 (undefined) and codes that are not known."""
    known = _TYPES.get(code)
    return known[0] if known else None


def type_code(name: str | None) -> int:
    """The ONNX code of a type name; 0 where it has none."""
    return _CODES.get(name, 0) if name else 0


def element_bits(name: str | None) -> int | None:
    """Bits that a stored element takes; None for strings and types that are not known."""
    return _BITS.get(name) if name else None


def stored_bytes(name: str | None, elements: int) -> int | None:
    """Bytes of `elements` packed elements, rounded up to whole bytes; None where the type has no fixed size."""
    bits = element_bits(name)
    return None if bits is None else -(-elements * bits // 8)


def is_floating(name: str | None) -> bool:
    """Whether the type holds real numbers."""
    return name is not None and name.startswith(("float", "bfloat"))


def is_quantized(name: str | None) -> bool:
    """Whether the type is one that quantised weights are stored in: an integer of at most 8 bits."""
    return name in ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def short_name(name: str | None) -> str:
    """A type in a few characters: f32, bf16, i64, u8, f8_e4m3fn, bool; `unknown` for None."""
    if name is None:
        return "unknown"
    stem = name.rstrip("0123456789") if "_" not in name else name.split("_")[0].rstrip("0123456789")
    return _SHORT[stem] + name[len(stem) :] if stem in _SHORT else name

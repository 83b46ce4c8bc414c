"""Pre- and post-processing as declared steps: data that every framework shares, and never code.

Pre-processing turns one stored sample (an image's bytes, a text) into one input tensor, without the batch axis;
post-processing turns one output tensor, without the batch axis, into an answer. `measure/steps.py` carries them out.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from stratoscope.spec.base import Document

Layout = Literal["HWC", "CHW"]
ColorMode = Literal["RGB", "BGR", "gray"]
ElementType = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


def inside_folder(path: str) -> str:
    """`path` itself; raises ValueError for one that is absolute or leaves the folder that it is relative to."""
    parts = PurePosixPath(path.replace("\\", "/"))
    if not path or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise ValueError(f"{path!r} must be a path inside the manifest's folder, written relative to it")
    return path


#: A file beside the manifest.
RelativePath = Annotated[str, AfterValidator(inside_folder)]


class Decode(Document):
    """An image file to an array of unsigned bytes [height, width, channels] (or channels first)."""

    op: Literal["decode"] = "decode"
    color_mode: ColorMode = "RGB"
    data_layout: Layout = "HWC"


class Resize(Document):
    """An image to `height` x `width`, sampled at half-pixel centres (as Pillow, OpenCV and PyTorch's default do).

    `keep_aspect_ratio` scales both sides alike so that the image just covers height x width: the shorter side fits
    and the longer one is cut off by a `crop` that follows (torchvision's Resize of one number). Otherwise each side is
    scaled on its own. `antialias` widens the filter when shrinking (Pillow); without it the filter's width is fixed
    (OpenCV, TensorFlow). Unsigned bytes are rounded to the nearest value.
    """

    op: Literal["resize"] = "resize"
    height: PositiveInt = Field(le=65536)
    width: PositiveInt = Field(le=65536)
    method: Literal["bilinear", "nearest"] = "bilinear"
    keep_aspect_ratio: bool = False
    antialias: bool = False


class Crop(Document):
    """The centre of an image; where the margin is odd, the smaller part is above and to the left."""

    op: Literal["crop"] = "crop"
    height: PositiveInt
    width: PositiveInt


class Normalize(Document):
    """float32 `(x * rescale - mean) / std`, a channel at a time where `mean` or `std` has several values."""

    op: Literal["normalize"] = "normalize"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    rescale: float = 1.0

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if not self.mean or not self.std or 0.0 in self.std:
            raise ValueError("mean and std have one value or one a channel, and no std is 0")
        if 1 not in (len(self.mean), len(self.std)) and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class ToLayout(Document):
    """Moves the channels of an image: `to` CHW from HWC, or back."""

    op: Literal["layout"] = "layout"
    to: Layout


class Cast(Document):
    """Changes the element type; a value that the type cannot hold is an error."""

    op: Literal["cast"] = "cast"
    to: ElementType


class Tokenize(Document):
    """A text to WordPiece token ids (Devlin et al. 2019, BERT), cut and padded to `max_length`, int64 [max_length].

    An input of a model declares which of the three arrays it takes: the ids, the mask of real tokens, or the segments.
    """

    op: Literal["tokenize"] = "tokenize"
    vocabulary: RelativePath = Field(description="one token a line; the line's number is the id")
    max_length: PositiveInt = Field(ge=2, le=65536)
    lowercase: bool = Field(default=True, description="also strips accents")
    output: Literal["ids", "mask", "segments"] = "ids"
    unknown_token: str = "[UNK]"
    start_token: str = "[CLS]"
    end_token: str = "[SEP]"
    padding_token: str = "[PAD]"


class Softmax(Document):
    """Logits to probabilities along `axis`, shifted by the maximum so that nothing overflows."""

    op: Literal["softmax"] = "softmax"
    axis: int = -1


class ArgSort(Document):
    """Classes by falling score along the last axis, equal scores by rising index; the first `k` of them.

    `labels` names the classes: a file with one name a line.
    """

    op: Literal["argsort"] = "argsort"
    k: PositiveInt | None = Field(default=None, description="top-k; null: all classes")
    labels: RelativePath | None = None
    ignore_first: NonNegativeInt = Field(
        default=0, description="leading outputs that are no class (a background class); dropped before ranking"
    )


PreStep = Annotated[Decode | Resize | Crop | Normalize | ToLayout | Cast | Tokenize, Field(discriminator="op")]
PostStep = Annotated[Cast | Softmax | ArgSort, Field(discriminator="op")]
Step = Annotated[
    Decode | Resize | Crop | Normalize | ToLayout | Cast | Tokenize | Softmax | ArgSort, Field(discriminator="op")
]

PRE_OPS = frozenset({"decode", "resize", "crop", "normalize", "layout", "cast", "tokenize"})
POST_OPS = frozenset({"cast", "softmax", "argsort"})


def check_order(steps: tuple[Step, ...], allowed: frozenset[str], role: str) -> None:
    """Raises ValueError where a step does not belong to the role, or comes where it cannot.

    `decode` and `tokenize` read a stored sample and come first; `argsort` ends in names and comes last.
    """
    for position, step in enumerate(steps):
        if step.op not in allowed:
            raise ValueError(f"step {step.op!r} does not belong to {role}; it has {', '.join(sorted(allowed))}")
        if step.op in {"decode", "tokenize"} and position > 0:
            raise ValueError(f"step {step.op!r} reads the stored sample and must come first")
        if step.op == "argsort" and position < len(steps) - 1:
            raise ValueError("step 'argsort' gives the answer and must come last")

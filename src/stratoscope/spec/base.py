"""What manifests and records share: a schema tag, strict fields, a digest of the content that ignores key order."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, StringConstraints

#: A version as semver.org 2.0.0 has it: MAJOR.MINOR.PATCH, with an optional pre-release and build.
SEMVER_PATTERN = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?"
    r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
)
SemVer = Annotated[str, StringConstraints(pattern=SEMVER_PATTERN)]


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: keys sorted, no spaces, no NaN; the input of every digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """`sha256:` and the hex digest of the canonical JSON of `value`."""
    return "sha256:" + hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Document(BaseModel):
    """A frozen value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class Manifest(Document):
    """A versioned, content-addressed description of one thing of a run.

    `not_content` names the fields that describe without deciding the result (a comment, the moment of capture); the
    digest leaves them out.
    """

    not_content: ClassVar[frozenset[str]] = frozenset({"description"})

    def digest(self) -> str:
        """sha256 of the canonical JSON, without the fields that do not decide a result and without absent values."""
        return digest_of(self.model_dump(mode="json", exclude=set(self.not_content), exclude_none=True, by_alias=True))

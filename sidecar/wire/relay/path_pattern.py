"""Paths of relayed routes: fixed segments, and named ones in braces that stand for an id (`/v1/files/{id}/content`).

The path that an upstream gets is built from the pattern and the checked ids, never copied from the request. So no other
spelling (`..`, `%2F`, `//`, another case) reaches a path that the pattern does not have.
"""

from __future__ import annotations

import re
from typing import Self

import msgspec

MAX_SEGMENTS = 12
MAX_PATH_LENGTH = 200
"""Characters of a pattern."""
MAX_ID_LENGTH = 256
_FIXED_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9_.~-]+")
_NAMED_SEGMENT = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_ID_VALUE = re.compile(r"(?!\.+$)[A-Za-z0-9_.~=-]+")
"""Ids of files and uploads.  A colon would name a method of Google's APIs; `%`, `;`, `?`, `#` and dots another path."""


class PathPattern(msgspec.Struct, frozen=True):
    """One path of a configuration. *segments* are its parts between slashes; None stands for an id."""

    text: str
    segments: tuple[str | None, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pattern in *text*. Raises `ValueError` with the problem and the cure."""
        parts = text.split("/")
        if len(text) > MAX_PATH_LENGTH or len(parts) - 1 > MAX_SEGMENTS:
            msg = f"has more than {MAX_PATH_LENGTH} characters or {MAX_SEGMENTS} segments; use a shorter path"
            raise ValueError(msg)
        if parts[0] or len(parts) == 1:
            msg = "does not begin with a slash; write it like '/v1/rerank'"
            raise ValueError(msg)
        segments: list[str | None] = []
        for part in parts[1:]:
            if _NAMED_SEGMENT.fullmatch(part):
                segments.append(None)
            elif _FIXED_SEGMENT.fullmatch(part):
                segments.append(part)
            else:
                msg = (
                    f"has the segment {part!r}, which is no plain one; "
                    "use letters, digits, '-', '_', '.' and '~', or a name in braces for an id, as in '/v1/files/{id}'"
                )
                raise ValueError(msg)
        return cls(text, tuple(segments))

    @property
    def has_ids(self) -> bool:
        """Whether a segment stands for an id."""
        return None in self.segments

    def filled(self, path: str) -> str | None:
        """Return *path*, the decoded path of a request, if the pattern has it; None for any other.

        The result needs no escapes. Time is linear in the length of *path*.
        """
        parts = path.split("/", MAX_SEGMENTS + 1)
        if len(parts) != len(self.segments) + 1 or parts[0]:
            return None
        for part, segment in zip(parts[1:], self.segments, strict=True):
            if part != segment and (segment is not None or not _is_id(part)):
                return None
        return path


def _is_id(part: str) -> bool:
    return len(part) <= MAX_ID_LENGTH and _ID_VALUE.fullmatch(part) is not None

"""Mask words that no text needs: keys, hashes and tokens that the sidecar does not know.

A word may have groups of letters, groups of digits, and short groups of both, as names of models have (`Qwen3-235B-A22B`,
`q4f16_1`).  What has more is masked, unless its shape is that of an identifier which clients or a vendor's support need.
"""

from __future__ import annotations

import re

MAX_MIXED_CHARACTERS = 11
"""Letters and digits of a word in groups that change more than once between the two."""
MAX_GROUP_LENGTH = 19
"""Characters of a group that has letters and digits."""

_MIXED_LETTERS = r"(?:[A-Za-z]+\d+[A-Za-z]|\d+[A-Za-z]+\d)[A-Za-z0-9]*"
_MIXED_GROUP = re.compile(rf"(?<![A-Za-z0-9]){_MIXED_LETTERS}")
_LONG_GROUP = re.compile(rf"(?<![A-Za-z0-9])(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{{{MAX_GROUP_LENGTH + 1},}}")
_LONG_WORD = re.compile(rf"[A-Za-z0-9_+/=~.-]{{{MAX_MIXED_CHARACTERS + 1},}}")
_UUID_PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_KNOWN_IDENTIFIER = re.compile(
    rf"{_UUID_PATTERN}|\d{{8}}T\d{{6}}Z?"
    r"|(?:req|request|trace|chatcmpl|cmpl|gen|msg|resp|call|toolu|fc|file|batch|ft|run|thread|asst)[-_]"
    rf"(?:(?:tool|vrtx|bdrk)[-_])?(?:{_UUID_PATTERN}|[A-Za-z0-9]{{1,40}})",
    re.IGNORECASE,
)
"""UUIDs, timestamps, and identifiers with the prefixes of OpenAI's, Anthropic's and OpenRouter's interfaces.

vLLM sends `chatcmpl-tool-…` and `chatcmpl-` with a UUID, Anthropic on Vertex AI and Bedrock `req_vrtx_…` and `toolu_bdrk_…`.
"""


def mask_opaque_words(text: str, mask: str) -> str:
    """Return *text* with *mask* in place of words that look random."""
    if _MIXED_GROUP.search(text) is None and _LONG_GROUP.search(text) is None:
        return text
    return _LONG_WORD.sub(lambda found: mask if _is_opaque(found[0]) else found[0], text)


def _is_opaque(word: str) -> bool:
    mixed = sum(len(group) for group in _MIXED_GROUP.findall(word))
    if mixed <= MAX_MIXED_CHARACTERS and _LONG_GROUP.search(word) is None:
        return False
    return _KNOWN_IDENTIFIER.fullmatch(word.strip("._-/=+~")) is None

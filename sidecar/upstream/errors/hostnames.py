"""Mask host names and addresses in an error text, but not file names, field paths, versions and model names."""

from __future__ import annotations

import re
from itertools import count

_HOST_ASSIGNMENT = re.compile(
    r"\b((?:host(?:name)?|server(?:_?name)?|address|addr|peer|endpoint|base_url|node|pod|port)\s{0,4}=|host(?:name)?[\"']?\s{0,4}:)"
    r"\s{0,4}[\"']?[^\s\"',;()]+",
    re.IGNORECASE,
)
_CONNECT_ERROR = re.compile(
    r"\b(ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|dial tcp(?:: lookup)?)\s{1,4}[\w.:-]+"
)
_CONNECT_WORDS = ("enotfound", "eai_again", "econn", "etimedout", "dial tcp")
_IPV4_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b")
_IPV6_ADDRESS = re.compile(
    r"(?<![\w:.])\[?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,8}(?:\.\d{1,3}){0,3}(?:%\w{1,16})?(?![\w:])(?:\](?::\d{1,5})?)?",
    re.IGNORECASE,
)
_MIN_IPV6_COLONS = 5
"""Text with this many colons is an address (IPv6 or MAC); a time has two."""
_EC2_NAME = re.compile(r"\bip(?:-\d{1,3}){4}[\w.-]*", re.IGNORECASE)
_HOST_WORD = re.compile(
    r"(?<![\w.@-])[.@-]*(?:\w[\w-]*(?:[.@]+(?=[\w-])[\w.@-]*(?::\d{2,5}(?!\w))?|:\d{2,5}(?!\w))|localhost\b[\w-]*)",
    re.ASCII | re.IGNORECASE,
)
MAX_HOST_NAME_LENGTH = 253
MAX_HOST_WORDS = 250
"""Words with dots of one error that are checked; further ones are masked."""
_NUMBERED_LABEL = re.compile(r"[a-z]{2,}\d{1,3}", re.IGNORECASE)
_VERSION_NUMBER = re.compile(r"v?\d+\.\d", re.IGNORECASE)
_CAMEL_CASE = re.compile(r"(?:[A-Z][a-z]+){2,6}")
_DATE_AND_HOUR = re.compile(r"\d{4}-\d\d-\d\dT\d\d")
"""The beginning of a time of ISO 8601, up to its first colon."""


def _words(line: str) -> frozenset[str]:
    return frozenset(line.split())


HOST_SUFFIXES = _words(
    "com net org io ai dev local internal svc lan cloud app co corp home intranet cluster cn de eu uk us fr jp ru"
)
"""Last labels of host names."""
FILE_SUFFIXES = _words(
    "txt json jsonl csv tsv pdf png jpg jpeg gif webp svg bmp wav mp3 mp4 ogg flac webm doc docx xls xlsx ppt pptx md"
    " yaml yml toml xml html htm gguf safetensors bin onnx parquet"
)
"""Last labels of file names, such as a client's uploads or a model's weights."""
FIELD_WORDS = _words(
    "messages message content contents role name text type tools tool function functions parameters properties arguments"
    " format schema strict model models input inputs output prompt max min stop stream seed user metadata choices choice"
    " index delta usage items item image url detail audio data file part parts reasoning effort logprobs body request"
    " response error code param status system developer assistant thinking options id key value values required enum"
    " anyof chat completion completions chunk object embeddings responses query path header headers line column char"
    " position tokens limit length size count total"
)
"""Words in paths of request fields."""
LIST_FIELDS = _words("messages tools contents input system functions choices")
"""First words of field paths with an index, as of Anthropic: `messages.0.content.1.image.source.base64.data`."""


def mask_hosts(text: str, mask: str) -> str:
    """Return *text* with *mask* in place of host names (with their ports) and addresses."""
    lowered, words = text.lower(), count(1)
    if "=" in text or "host" in lowered:
        text = _HOST_ASSIGNMENT.sub(lambda found: found[1] + mask, text)
    if any(word in lowered for word in _CONNECT_WORDS):
        text = _CONNECT_ERROR.sub(lambda found: f"{found[1]} {mask}", text)
    if ":" in text:
        text = _IPV6_ADDRESS.sub(lambda found: mask if _is_ipv6(found[0]) else found[0], text)
    if "." in text:
        text = _IPV4_ADDRESS.sub(mask, text)
    if "ip-" in lowered:
        text = _EC2_NAME.sub(mask, text)
    return _HOST_WORD.sub(lambda found: mask if next(words) > MAX_HOST_WORDS else _masked(found, mask), text)


def _is_ipv6(found: str) -> bool:
    return ("::" in found or found.count(":") >= _MIN_IPV6_COLONS) and any(char.isalnum() for char in found)


def _masked(found: re.Match[str], mask: str) -> str:
    word, colon, _ = found[0].partition(":")
    name = word.strip(".-")
    end = word[len(word.rstrip(".-")) :]
    after_index = word.startswith(".") and found.string[found.start() - 1 : found.start()] in ("]", ")")
    if not after_index and ("@" in name.strip("@") or _is_host(name) or (colon and _is_host_with_port(name))):
        return mask + ("" if colon else end)
    return found[0]


def _is_host(name: str) -> bool:
    """Whether a dotted *name* is a host's: it ends in letters and is not a sentence end, file, field path or version.

    One longer than names of hosts can be is taken for one: no text needs it.
    """
    if len(name) > MAX_HOST_NAME_LENGTH:
        return True
    labels = name.split(".")
    first, last = labels[0], labels[-1]
    if len(labels) == 1:
        return first.lower() == "localhost"
    if not all(labels) or all(len(label) == 1 for label in labels) or (first in LIST_FIELDS and labels[1].isdigit()):
        return False
    if last.lower() in HOST_SUFFIXES:
        return True
    if last.lower() in FILE_SUFFIXES or _VERSION_NUMBER.match(name):
        return False
    if len(labels) == 2 and "-" in first and _NUMBERED_LABEL.fullmatch(last):  # noqa: PLR2004  # such as gpu-node.rack12
        return True
    if not (last.isascii() and last.isalpha() and len(last) > 1) and not last.startswith("xn--"):
        return False
    if last.istitle() or _CAMEL_CASE.fullmatch(last):  # "model.Please", "litellm.RateLimitError"
        return _is_host(".".join(labels[:-1]))
    of_type = _CAMEL_CASE.fullmatch(first) is not None  # Google: "GenerateContentRequest.tools[0].name"
    return not all(_is_field(label) for label in labels[of_type:])


def _is_field(label: str) -> bool:
    return label.lower() in FIELD_WORDS or label.isdigit() or ("_" in label and label.isidentifier())


def _is_host_with_port(name: str) -> bool:
    return (
        len(name) > 1
        and any(char.isalpha() for char in name)
        and not _DATE_AND_HOUR.fullmatch(name)
        and not all(_is_field(label) for label in name.split("."))
    )

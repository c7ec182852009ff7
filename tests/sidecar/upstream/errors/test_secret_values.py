"""Secrets in texts: whatever is done to a text that quotes one, no eight letters and digits of it stay in a row."""

from __future__ import annotations

import html
import json
import quopri
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from string import ascii_letters, digits
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidecar.upstream.errors.encoded_text import TooManyLayers
from sidecar.upstream.errors.redact import ENCODED_MESSAGE, MAX_READ_LENGTH, redact, redact_all
from sidecar.upstream.errors.secret_values import MAX_CLIENT_SECRET_LENGTH, RUN_LENGTH, Secrets

Traced = list[tuple[str, frozenset[int]]]
"""The characters of a text, each with the places of the secret's characters that it encodes, in full or in part."""
NOTHING: frozenset[int] = frozenset()


def traced(text: str) -> Traced:
    """Return *text*, whose characters are those of the secret."""
    return [(char, frozenset([at])) for at, char in enumerate(text)]


def by_character(escape: Callable[[str], str]) -> Callable[[Traced], Traced]:
    """Return an encoding that replaces each character by *escape* of it."""
    return lambda text: [(out, source) for char, source in text for out in escape(char)]


def by_digit(bits: int, digits_of: Callable[[bytes], str]) -> Callable[[Traced], Traced]:
    """Return an encoding of bytes by *digits_of*, whose digits encode *bits* each, of one or two bytes."""

    def encode(text: Traced) -> Traced:
        sources = [source for char, source in text for _ in char.encode()]
        out = digits_of("".join(char for char, _ in text).encode())
        ends = [(bits * at // 8, min((bits * at + bits - 1) // 8, len(sources) - 1)) for at in range(len(out))]
        return [
            (char, sources[first] | sources[last] if first < len(sources) else NOTHING)
            for char, (first, last) in zip(out, ends, strict=True)
        ]

    return encode


ENCODINGS: dict[str, Callable[[Traced], Traced]] = {
    "json": by_character(lambda char: {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\x1b": "\\u001b"}.get(char, char)),
    "unicode": by_character(lambda char: f"\\u{ord(char):04x}"),
    "rust": by_character(lambda char: f"\\u{{{ord(char):x}}}"),
    "c": by_character(lambda char: f"\\x{ord(char) & 255:02X}"),
    "url": by_character(lambda char: char if char.isalnum() and char.isascii() else "".join(f"%{byte:02X}" for byte in char.encode())),
    "whole url": by_character(lambda char: "".join(f"%{byte:02x}" for byte in char.encode())),
    "html": by_character(lambda char: {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "/": "&sol;", "-": "&hyphen;"}.get(char, char)),
    "decimal html": by_character(lambda char: f"&#{ord(char)};"),
    "hexadecimal html": by_character(lambda char: f"&#x{ord(char):X};"),
    "quoted printable": by_character(lambda char: "".join(f"={byte:02X}" for byte in char.encode())),
    "base64": by_digit(6, lambda raw: b64encode(raw).decode()),
    "base64 for urls": by_digit(6, lambda raw: b64encode(raw, b"-_").decode().rstrip("=")),
    "hexadecimal": by_digit(4, bytes.hex),
    "spaced hexadecimal": lambda text: wrapped(ENCODINGS["hexadecimal"](text), 2, " "),
    "utf-16": by_character(lambda char: f"{char}\0"),
    "swapped case": by_character(str.swapcase),
}  # fmt: skip
GAPS = (
    "\n",
    "\r\n",
    " ",
    "\t",
    " \n ",
    "\u00ad",
    "\u200b",
    "\x1b[0m",
    "\x1b[1;31m",
    "<br>",
    "<wbr/>",
    "</b>",
    '<span class="k">',
)
KEYS = st.builds(
    str.__add__,
    st.sampled_from(["", "sk-proj-", "sk-ant-api03-", "gsk_", "AIza"]),
    st.text(ascii_letters + digits + "-_+/", min_size=20, max_size=60).filter(
        lambda key: all(any(char.isdigit() for char in key[at : at + 4]) for at in range(len(key) - 3))
    ),
)


def wrapped(text: Traced, width: int, gap: str) -> Traced:
    """Return *text* with *gap* behind each *width* characters."""
    found: Traced = []
    for at in range(0, len(text), width):
        found += [*text[at : at + width], *((char, NOTHING) for char in gap)]
    return found


def longest_left(key: str, text: Traced, shown: Traced) -> int:
    """Return how many letters and digits of *key* in a row are encoded as fully in *shown*, the rest of *text*, as in *text*."""
    sent, left = (Counter(at for _, source in part for at in source) for part in (text, shown))
    runs = "".join("x" if left[at] == sent[at] else " " for at, char in enumerate(key) if char.isalnum())
    return max(map(len, runs.split()), default=0)


@settings(max_examples=300, deadline=None)
@given(
    key=KEYS,
    names=st.lists(st.sampled_from(sorted(ENCODINGS)), max_size=3),
    prefix=st.text(ascii_letters + " ", max_size=5),
    wrap=st.none() | st.tuples(st.integers(6, 80), st.sampled_from(GAPS)),
    wraps_first=st.booleans(),
    cut=st.tuples(st.floats(0, 0.4), st.floats(0.6, 1)),
)
@example(
    key="Ab1Cd2Ef3Gh4Ij5Kl6Mn7", names=["html"], prefix="", wrap=(6, '<span class="k">'), wraps_first=True, cut=(0, 1)
)
@example(key="Ab1Cd2Ef3Gh4Ij5Kl6Mn7", names=["unicode"], prefix="", wrap=(7, "\n"), wraps_first=False, cut=(0, 1))
@example(key="Ab1Cd2Ef3Gh4Ij5Kl6Mn7", names=["base64"], prefix="", wrap=(6, "\xad"), wraps_first=True, cut=(0, 1))
def test_no_run_of_a_secret_is_left(
    key: str,
    names: list[str],
    prefix: str,
    wrap: tuple[int, str] | None,
    cut: tuple[float, float],
    *,
    wraps_first: bool,
) -> None:
    """Nested encodings, wraps and cuts in any combination leave less than `RUN_LENGTH` letters and digits in a row."""
    text = [*((char, NOTHING) for char in prefix), *traced(key)]
    if wrap and wraps_first:
        text = wrapped(text, *wrap)
    for name in sorted(names, key=lambda name: name != "swapped case"):  # other encodings do not survive it
        text = ENCODINGS[name](text)
    if wrap and not wraps_first:
        text = wrapped(text, *wrap)
    first, last = int(len(text) * cut[0]), int(len(text) * cut[1])
    raw = "".join(char for char, _ in text[first:last])
    try:
        spans = Secrets([key]).spans(raw)
    except TooManyLayers:
        return
    hidden = frozenset(first + at for start, end in spans for at in range(start, end))
    shown = [each for at, each in enumerate(text) if first <= at < last and at not in hidden]
    assert longest_left(key, text, shown) < RUN_LENGTH, raw


KEY = "sk-proj-Ab3dEf7hIjKlMnOpQr9tUvWxYz012345"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY.swapcase(),
        KEY[:15] + "\r\n    " + KEY[15:],
        "<br>".join(KEY[at : at + 7] for at in range(0, 40, 7)),
        "\x1b[31m".join(KEY[at : at + 5] for at in range(0, 40, 5)),
        "\u00ad".join(KEY),
        "****".join((KEY[:12], KEY[-12:])),
        json.dumps(json.dumps(json.dumps(f'"{KEY}"'))),
        quote(quote("".join(f"%{ord(char):02x}" for char in KEY))),
        html.escape(html.escape(f"<{KEY}>")),
        b64encode(f"user:{KEY}".encode()).decode(),
        b64encode(b64encode(KEY.encode())).decode(),
        b64encode(KEY.encode("utf-16-le")).decode(),
        quopri.encodestring(f"x{'y' * 60}{KEY}=".encode()).decode(),
        ", ".join(f"0x{ord(char):02x}" for char in KEY),
        "".join(chr(ord(char) + 0xFEE0) for char in KEY),
        "".join(f"\\u00\n{ord(char):02x}" for char in KEY),
        "".join(f"&#{ord(char)}" for char in KEY) + " ",
        "".join(f"\\{ord(char):03o}" for char in KEY),
        f"<a href='x' title='{quote(KEY)}'>",
    ],
)
def test_key_in_any_form_is_masked(text: str) -> None:
    """Forms in which logs, shells, mails and libraries show a key are masked; the words around them are kept."""
    shown = redact(f"The key {text} is bad.", Secrets([KEY]))

    assert shown.startswith("The key ")
    assert shown.endswith("is bad.")
    assert "[redacted]" in shown
    assert longest_common(KEY, shown) < RUN_LENGTH


def longest_common(key: str, text: str) -> int:
    """Return the length of the longest run of letters and digits of *key* that *text* has too, in any case."""
    key, text = (re.sub(r"[^a-z0-9]", "", each.lower()) for each in (key, text))
    sizes = range(len(key) + 1)
    return max(size for size in sizes if any(key[at : at + size] in text for at in range(len(key) - size + 1)))


@pytest.mark.parametrize("kept", range(1, len(KEY) + 1))
def test_cut_at_the_read_limit_leaves_no_recognisable_part(kept: int) -> None:
    """A key that starts *kept* characters before the limit of what is read is masked, unless fewer than eight are left."""
    padding = "word " * 2_000
    shown = redact_all([padding[: MAX_READ_LENGTH - kept] + KEY[:kept]], Secrets([KEY]))[0]
    start = redact(KEY[-kept:] + " " + padding, Secrets([KEY]))

    assert longest_common(KEY, shown) < RUN_LENGTH
    assert longest_common(KEY, start) < RUN_LENGTH


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("sk-no-key-required", "Invalid request: an API key is required for no model."),
        ("not-needed", "max_tokens is not needed here."),
        ("YOUR_API_KEY", "Set your api key in the header."),
        ("placeholder", "The place holder of the image is missing."),
        ("anything", "Too many things in the prompt."),
        ("chat-nest-production-3f9a27c1", "The deployment production of chat nest is not there."),
    ],
)
def test_key_of_words_masks_no_sentence(key: str, text: str) -> None:
    """A key that is made of words, such as those for servers without keys, masks itself and no sentence with its words."""
    assert redact(text, Secrets([key])) == text
    for shown in (f"key {key} is bad", f"key {key.upper()} is bad", f"key {quote(quote(key, safe=''))}, {b64encode(key.encode()).decode()}"):  # fmt: skip
        assert longest_common(key, redact(shown, Secrets([key]))) < RUN_LENGTH


def test_cut_key_of_words_is_masked() -> None:
    """What a cut leaves of a passphrase is masked too."""
    assert redact("the key is correct-horse-bat", Secrets(["correct-horse-battery-staple"])) == "the key is [redacted]"


@pytest.mark.parametrize("text", ["p@$$-W0rd!#% is bad", "P@$$-\nW0RD!#% is bad", "p%40%24%24-W0rd!%23%25 is bad"])
def test_password_of_signs_is_masked(text: str) -> None:
    """A password of few letters and digits is compared with its signs."""
    assert redact(text, Secrets(["p@$$-W0rd!#%"])) == "[redacted] is bad"


def test_credentials_of_a_header_are_secrets() -> None:
    """The value of a header is a secret without its scheme; Basic credentials are one decoded, too."""
    value = "Basic " + b64encode(b"user:hunter2-hunter3").decode()
    secrets = Secrets().plus([value, "Bearer opaque-token-1234"])

    assert redact("for hunter2-hunter3", secrets) == "for [redacted]"
    assert redact("for opaque_token_1234", secrets) == "for [redacted]"
    assert redact(f"for {value[6:]}", secrets) == "for [redacted]="
    assert "hunter2" not in repr(secrets)


def test_text_that_is_encoded_too_often_is_not_shown() -> None:
    """A text that cannot be read to its end within the limits is replaced as a whole."""
    text = "the key is " + "V" * 3_900
    for _ in range(12):
        text = text.replace("%", "&#37;") if "%" in text else "%25" + text
    deep = KEY
    for at in range(30):
        deep = "".join(f"%{ord(char):02x}" if at % 2 else f"&#{ord(char)};" for char in deep)[:3_000]

    assert redact(text, Secrets([KEY])) == ENCODED_MESSAGE
    assert longest_common(KEY, redact(deep, Secrets([KEY]))) < RUN_LENGTH


def test_only_own_secrets_cost_time_at_start() -> None:
    """A key of a client of any length is compared up to a limit; that of the sidecar in full."""
    long = b64encode(bytes(range(256)) * 40).decode()

    assert redact(f"x {long[9_000:9_500]}=", Secrets([long])) == "x [redacted]="
    assert len(Secrets().plus([long] * 3).values[0]) == MAX_CLIENT_SECRET_LENGTH

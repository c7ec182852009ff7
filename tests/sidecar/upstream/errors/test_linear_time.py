"""The time of redaction grows with the length of a text, and not with its square, whatever the text is made of."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable

import pytest

from sidecar.upstream.errors import encoded_text, redact
from sidecar.upstream.errors.encoded_text import TooManyLayers, views_of
from sidecar.upstream.errors.hostnames import mask_hosts
from sidecar.upstream.errors.opaque_words import mask_opaque_words
from sidecar.upstream.errors.public_object import public_object
from sidecar.upstream.errors.redact import MAX_READ_LENGTH
from sidecar.upstream.errors.secret_values import Secrets

KEYS = [f"sEcr3t/KeyOf+Ours{at}" for at in range(10)]
SECRETS = Secrets(KEYS)
LENGTH = 6_000
MAX_RATIO = 3.0
"""Of the times for twice the length and for the length: 2 where time is linear, 4 where it is quadratic."""
NOISE_SECONDS = 0.0005
MAX_CPU_SECONDS = 0.05
"""Seconds of CPU that no error may take on a busy machine; the slowest ones take a tenth of it."""

UNITS = [
    *("a", "0", "A1", "-", ".", ":", "/", "\\", "%", "&", "=", "<", "(", "[", '"', " ", "\n", "\0", "@", "_"),
    *("\\n", "\\n ", "\n at ", " at ", "at a.", "at a.b/c", "at a:1:", " (a:1:1", "(a:1", "main.a", 'File "a', "panic", "goroutine 1 "),
    *("a.", "ab.cd ", "Ab.", "a-1.", "x@y ", "ab:12 ", "1.1.", "1:1:", "::", "ip-1-", "host=", "ENOTFOUND ", "dial tcp: "),
    *("sk-", "AIza", "bearer ", "api key ", "token=", "a://", "a:\\/", "C:\\", "5C:\\", "\\\\a", "/a", "%2f"),
    *("%25", "%73", "%u0073", "&#115;", "&amp;", "&#x", "\\u0073", "\\x7", "\\163", "=73", "=\n", "=3D", "\uff53", "\x1b[1;", "<a ", "<a b='", "</"),
    *("VVVV", "MzM3", "73", "0x", "c0Vj", "sEcr3t", KEYS[3], f"{KEYS[0]} ", "A1b2", "a1b2c3d4e5f6 ", "aB3-", "1a"),
]  # fmt: skip


def sub(pattern: re.Pattern[str]) -> Callable[[str], object]:
    """Return the replacement of *pattern*, which also searches all of a text that has no match."""
    return lambda text: pattern.sub("", text)


def all_views(text: str) -> None:
    """Read *text* in all ways."""
    with contextlib.suppress(TooManyLayers):
        list(views_of(text))


def all_spans(text: str) -> None:
    """Search *text* for ten secrets."""
    with contextlib.suppress(TooManyLayers):
        SECRETS.spans(text)


WORK: dict[str, Callable[[str], object]] = {
    **{f"trace {at}": sub(pattern) for at, (_, pattern) in enumerate(redact._STACK_TRACES)},
    **{f"mask {at}": sub(pattern) for at, (_, pattern) in enumerate(redact._MASKED_PATTERNS)},
    "stack trace": redact._trace_start,
    "page": redact._is_page,
    "escapes": sub(encoded_text._ESCAPE_PATTERN),
    "gaps": sub(encoded_text._GAP_PATTERN),
    "hosts": lambda text: mask_hosts(text, ""),
    "opaque words": lambda text: mask_opaque_words(text, ""),
    "views": all_views,
    "secrets": all_spans,
}


def cpu_seconds(work: Callable[[str], object], text: str, runs: int = 2) -> float:
    """Return the least CPU time of several *runs* of *work*."""
    times = []
    for _ in range(runs):
        before = time.process_time()
        work(text)
        times.append(time.process_time() - before)
    return min(times)


def grows_too_fast(work: Callable[[str], object], unit: str) -> bool:
    """Whether *work* takes more than `MAX_RATIO` times as long for twice the text.  A slow result is measured again."""
    short = (unit * LENGTH)[:LENGTH]
    for runs in (1, 3, 10):
        least = cpu_seconds(work, short, runs)
        if cpu_seconds(work, short * 2, runs) <= MAX_RATIO * least + NOISE_SECONDS:
            return False
    return True


@pytest.mark.parametrize("name", WORK)
def test_time_is_linear_in_the_text(name: str) -> None:
    """Each pattern and each step takes at most three times as long for twice a hostile text."""
    assert len(UNITS) >= 80
    assert [unit for unit in UNITS if grows_too_fast(WORK[name], unit)] == []


def test_quadratic_pattern_is_noticed() -> None:
    """The measurement detects a pattern that searches its text again from each character."""
    assert grows_too_fast(sub(re.compile(r"a+b")), "a")


@pytest.mark.parametrize("unit", UNITS)
def test_no_error_takes_long(unit: str) -> None:
    """One long text, a hundred texts in a list and a hundred fields all end soon, with ten secrets."""
    text = unit * MAX_READ_LENGTH
    piece = text[: 2 * MAX_READ_LENGTH // 100]
    for error in (
        {"message": text, "metadata": {"raw": text}},
        {"message": "m", "x": [piece] * 99},
        {"message": "m"} | {f"f{at}": piece for at in range(99)},
        {"message": "m"} | {(piece[:100] + str(at)): piece for at in range(99)},
    ):
        assert cpu_seconds(lambda _, error=error: public_object(error, SECRETS), "") < MAX_CPU_SECONDS  # type: ignore[misc]


@pytest.mark.parametrize("name", ["a" + ".Ab" * 2_000, "Ab." * 2_000, "a." * 2_000 + "com"])
def test_endless_host_name_is_masked(name: str) -> None:
    """A name with thousands of labels ends neither in a deep recursion nor in a text that is shown."""
    assert len(redact.redact(f"no {name} there")) < 100

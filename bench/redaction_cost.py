"""Measure the redaction of upstream's errors: milliseconds of CPU for hostile texts, the slowest ones first.

Each text fills one message, a hundred items of a list, and a hundred fields; 8,000 characters in all. `secrets` is the
number of keys that are searched. Each figure is the lowest of several runs, from the bytes of a 429 to its exception.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping

import httpx

from sidecar.upstream.errors.classify import from_status
from sidecar.upstream.errors.secret_values import Secrets

REQUEST = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions")
CHARACTERS = 8_000
RUNS = 3
PLAIN_TEXT = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens. "
UNITS = [
    *("a", "1 ", "1,", "a.", "ab.cd ", "Ab.", "\\", "\\n", "\n", "\n at ", "at a.b", " (a:1:1", "x@y ", "1:1:", "host=", "a://"),
    *("%25", "%73", "&#115;", "&amp;", "\\u0073", "=73", "\x1b[1;", "<a ", "VVVV", "MzM3", "73", "c0Vj", "sEcr3t/KeyOf+Ours1 "),
    *("context ", "limit 1, requested 2 ", "tokens 1 ", "a1b2c3d4e5f6 ", PLAIN_TEXT),
]  # fmt: skip


def errors_of(unit: str) -> Mapping[str, bytes]:
    """Return the bodies that *unit* fills, by their form."""
    text = (unit * CHARACTERS)[:CHARACTERS]
    pieces = [text[at : at + CHARACTERS // 100] for at in range(0, CHARACTERS, CHARACTERS // 100)]
    fields = {f"f{at}": piece for at, piece in enumerate(pieces)}
    forms = {"message": {"message": text}, "list": {"message": "m", "x": pieces}, "fields": {"message": "m"} | fields}
    return {form: json.dumps({"error": error}).encode() for form, error in forms.items()}


def milliseconds(body: bytes, secrets: Secrets) -> float:
    """Return the CPU time of one failure with *body*."""
    times = []
    for _ in range(RUNS):
        before = time.process_time()
        from_status(429, httpx.Headers(), body, REQUEST, secrets=secrets, now=0.0)
        times.append(time.process_time() - before)
    return min(times) * 1_000


def main() -> None:
    """Print the slowest texts for 1, 3 and 10 secrets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="texts to print for each number of secrets")
    rows = parser.parse_args().rows
    print("secrets  form      ms  text")
    for count in (1, 3, 10):
        secrets = Secrets(f"sEcr3t/KeyOf+Ours{at}" for at in range(count))
        secrets.spans("")
        found = [(milliseconds(body, secrets), form, unit) for unit in UNITS for form, body in errors_of(unit).items()]
        for taken, form, unit in sorted(found, reverse=True)[:rows]:
            print(f"{count:7}  {form:8} {taken:4.1f}  {unit[:20]!r}")
        plain = milliseconds(json.dumps({"error": {"message": PLAIN_TEXT}}).encode(), secrets)
        print(f"{count:7}  ordinary {plain:4.1f}  {PLAIN_TEXT[:20]!r}")


if __name__ == "__main__":
    main()

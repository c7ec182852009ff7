"""What clients see of upstream's error object: every field of a vendor, no secret, and never much."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.upstream.errors.public_object import MAX_NAME_LENGTH, MAX_OBJECT_DEPTH, MAX_OBJECT_VALUES, public_object
from sidecar.upstream.errors.redact import ENCODED_MESSAGE, MAX_READ_LENGTH, MAX_TEXT_LENGTH
from sidecar.upstream.errors.secret_values import Secrets
from sidecar.wire.error_object import error_object

SECRET = "sEcr3t/KeyOf+Ours"
MAX_CPU_SECONDS = 0.5
"""Seconds of CPU that no object may take; the slowest ones here take a tenth of it."""

OPENAI = {
    "message": "Rate limit reached for gpt-4o in organization org-x on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.",
    "type": "requests",
    "param": None,
    "code": "rate_limit_exceeded",
}
OPENROUTER = {
    "message": "Provider returned error",
    "code": 429,
    "metadata": {"raw": '{"error":{"message":"slow down","code":429}}', "provider_name": "Together", "is_byok": False},
}
MODERATION = {
    "message": "Flagged.",
    "code": 403,
    "metadata": {
        "reasons": ["violence"],
        "flagged_input": "...",
        "provider_name": "OpenAI",
        "model_slug": "openai/gpt-4o",
    },
}
LLAMA = {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}
AZURE = {
    "message": "The response was filtered.",
    "type": None,
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {
        "code": "ResponsibleAIPolicyViolation",
        "content_filter_result": {
            "hate": {"filtered": False, "severity": "safe"},
            "jailbreak": {"filtered": True, "detected": True},
        },
    },
}
GOOGLE = {
    "code": 429,
    "message": "You exceeded your current quota. Please retry in 17.3s.",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
                {
                    "quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                    "quotaDimensions": {"location": "global", "model": "gemini-2.5-pro"},
                    "quotaValue": "5",
                }
            ],
        },
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"},
    ],
}
XAI = {"code": "Client specified an invalid argument", "error": "Too many tokens."}
TGI = {"error": "Input validation error: inputs must have less than 4096 tokens", "error_type": "validation"}
MISTRAL = {
    "object": "error",
    "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]},
    "type": "invalid_request_error",
    "param": None,
    "code": None,
}
GROQ = {
    "message": "Failed to call a function.",
    "type": "invalid_request_error",
    "code": "tool_use_failed",
    "failed_generation": "<function=x>{}",
}
ODD = {
    "message": "m",
    "code": 1.5,
    "ratio": 0.25,
    "ok": True,
    "nothing": None,
    "list": [1, [2, "b"], {"c": 3}, None],
    "empty": {},
}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": OPENAI}, OPENAI),
        ({"error": OPENROUTER}, OPENROUTER),
        ({"error": MODERATION}, MODERATION),
        ({"error": LLAMA}, LLAMA),
        ({"error": AZURE}, AZURE),
        ([{"error": GOOGLE}], GOOGLE),
        ({"error": GROQ}, GROQ),
        (XAI, {"message": "Too many tokens.", "code": XAI["code"]}),
        (TGI, {"message": TGI["error"], "error_type": "validation"}),
        (MISTRAL, MISTRAL | {"message": "body.x: Extra inputs are not permitted"}),
        ({"error": ODD}, {key: value for key, value in ODD.items() if key != "code"}),
        ({"error": {"code": 7}}, {"code": 7}),
        ({"error": {"message": "m", "code": 2**70, "big": 2**70, "n": -(2**62)}}, {"message": "m", "n": -(2**62)}),
    ],
)  # fmt: skip
def test_every_field_of_a_vendor_is_shown(body: Any, shown: dict[str, Any]) -> None:
    """All fields pass, at any depth, with their types: numbers stay numbers, null stays null."""
    found = public_object(error_object(body), Secrets([SECRET]))

    assert found == shown
    assert msgspec.json.decode(msgspec.json.encode(found)) == shown


@pytest.mark.parametrize(
    "body",
    [
        "a text",
        ["a text"],
        7,
        {},
        {"id": "x", "choices": [{"message": {"content": "the answer"}}]},
        {"error": {"reason": "x"}},
        {"message": "", "choices": []},
    ],
)
def test_other_json_is_no_object(body: Any) -> None:
    """Text, an answer, and an object without message, code and type are no error objects."""
    found = public_object(error_object(body))
    assert found == {}


def test_answer_under_a_wrong_status_is_not_shown() -> None:
    """An answer beside an error does not reach clients past the policies."""
    body = {
        "message": "m",
        "code": 1,
        "choices": [{"message": {"content": "the answer"}}],
        "usage": {"total_tokens": 1},
    }
    assert public_object(error_object(body)) == {"message": "m", "code": 1}


HIDDEN = [
    ("metadata", {"raw": f"key {SECRET} is bad"}),
    ("metadata", {"raw": "connect to 10.0.0.7:8000 failed"}),
    ("metadata", [["http://gpu7.internal:8000/v1"]]),
    ("a", {"b": {"c": [{"d": "/srv/router/app.py"}]}}),
    ("a", {SECRET: 1}),
    ("a", {"gpu7.internal.example.com": 1}),
    ("a", {"note": 'File "/srv/router/app.py", line 3'}),
    ("a", {"note": "Traceback (most recent call last):\n router"}),
    ("host", "router"),
    ("hostName", "router"),
    ("upstream_host", "router"),
    ("server", {"name": "router"}),
    ("Port", 8000),
    ("podIP", "router"),
    ("stack", ["router.serve"]),
    ("stackTrace", "router.serve"),
    ("stackEntries", ["router.serve"]),
    ("api_key", "router"),
    ("apiKey", "router"),
    ("x-api-key", "router"),
    ("key", "router"),
    ("token", "router"),
    ("Authorization", "router"),
    ("set-cookie", "router"),
    ("type_url", f"type.googleapis.com/{SECRET}"),
    ("code", SECRET),
    ("type", "http://router/x"),
]


@pytest.mark.parametrize(("name", "value"), HIDDEN)
def test_secret_and_infrastructure_are_hidden(name: str, value: object) -> None:
    """Keys, hosts, addresses, paths and stack traces are hidden at any depth, in values and in names."""
    text = json.dumps(public_object({"message": "m", name: value}, Secrets([SECRET])))

    for word in (SECRET, SECRET.lower(), "10.0.0.7", "gpu7", "internal", "/srv", "app.py", "router", "8000"):
        assert word not in text


@pytest.mark.parametrize(
    "text",
    [
        r'{"key":"sEcr3t\/KeyOf+Ours"}',
        r"{\"key\":\"sEcr3t\\\/KeyOf+Ours\"}",
        r'{"key":"sEcr3t\u002fKeyOf\u002bOurs"}',
        r'{"key":"\u0073Ecr3t/KeyOf+Ours"}',
        "sEcr3t&#x2F;KeyOf&#43;Ours",
        r'{"file":"\/srv\/router\/main.py"}',
        r'{"file":"\\\/srv\\\/router\\\/main.py"}',
        r"open \u002fsrv\u002frouter\u002fmain.py",
        "open %2Fsrv%2frouter%2Fmain.py",
        r'{"url":"http:\/\/KeyOf\/v1"}',
        r"{\"password\":\"KeyOf123\"}",
    ],
)
def test_escaped_secret_is_hidden(text: str) -> None:
    """A key, a path and an address are hidden also in the spelling of JSON in a string, of HTML and of a URL."""
    shown = json.dumps(public_object({"message": text, "metadata": {"raw": text}}, Secrets([SECRET])))

    for word in ("keyof", "srv", "router"):
        assert word not in shown.lower()


@pytest.mark.parametrize(
    "text", ["and/or", r"a \"b\" c", "50%2 of it", "openai/gpt-4o", "I said &amp; meant it", r"escape it as \\n"]
)
def test_plain_text_with_slashes_is_shown(text: str) -> None:
    """Text that only resembles an escaped path is unchanged."""
    assert public_object({"message": text}, Secrets([SECRET])) == {"message": text}


@pytest.mark.parametrize(
    "name", ["n_prompt_tokens", "token_count", "trace_id", "provider_name", "keyword", "transport", "script", "support"]
)
def test_similar_names_are_shown(name: str) -> None:
    """Names that only look like hidden ones are shown."""
    assert public_object({"message": "m", name: 7}) == {"message": "m", name: 7}


def test_page_in_an_object_is_hidden() -> None:
    """A page is never shown, neither as the message nor in another field."""
    found = public_object({"message": "<html>secret</html>", "code": 502, "metadata": {"raw": "<!DOCTYPE html>secret"}})

    assert "secret" not in json.dumps(found)
    assert ("message" in found, found["code"]) == (False, 502)


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = {"a": value}
    return value


def test_object_is_bounded() -> None:
    """Depth, values and characters are bounded, whatever their form; the message is kept."""
    deep = json.dumps(public_object({"message": "m", "x": nested(50)}))
    wide = public_object({"message": "m"} | {f"f{at}": at for at in range(5_000)})
    lists = public_object({"message": "m", "x": [[at] * 3 for at in range(5_000)]})
    long = public_object({"message": "word " * 50_000, "x": "word " * 50_000, "y": ["word " * 400] * 50})

    assert (deep.count("{"), "deep" in deep) == (MAX_OBJECT_DEPTH, False)
    assert len(wide) == MAX_OBJECT_VALUES + 1
    assert len(json.dumps(lists)) < 1_000
    assert len(long["message"]) == MAX_TEXT_LENGTH
    assert len(json.dumps(long)) < 2 * MAX_READ_LENGTH


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=30,
)


@given(VALUES)
def test_any_json_gives_an_encodable_object(value: Any) -> None:
    """Any JSON value, as the whole or as a field, is shown in a form that can be sent, without the key."""
    for error in (error_object(value), {"message": SECRET, "x": value, "y": [SECRET, value]}):
        raw = msgspec.json.encode(public_object(error, Secrets([SECRET])))
        assert SECRET.encode() not in raw


@pytest.mark.parametrize("unit", ["\\n", "(a:1", "\\n ", "\n at ", "a.", "host=", "a://", "%73", "s\\", "/a\\", "&#x"])
def test_time_of_an_object_is_bounded(unit: str) -> None:
    """No object takes long: not one of long texts, not one of many short ones."""
    for error in (
        {"message": unit * 20_000, "x": unit * 20_000},
        {"message": "m"} | {f"f{at}": unit * 20 for at in range(500)},
        {"message": "m", "x": [unit * 20] * 500},
    ):
        before = time.process_time()
        public_object(error, Secrets([SECRET]))
        assert time.process_time() - before < MAX_CPU_SECONDS


KEY = "sk-proj-Ab3dEf7hIjKlMnOpQr9tUvWxYz012345"


@pytest.mark.parametrize(
    "error",
    [
        {"message": f"key {KEY[:20]}", "param": KEY[20:]},
        {"message": f"key {KEY[:7]}", "param": KEY[7:14], "type": KEY[14:21], "code": KEY[21:]},
        {"message": "m", "parts": [KEY[at : at + 5] for at in range(0, 40, 5)]},
        {"message": "m", "x": {"a": KEY[:6], "b": {"c": KEY[6:12], "d": [KEY[12:18], KEY[18:24]]}, "e": KEY[24:]}},
        {"message": "m", KEY[:20]: {KEY[20:]: 1}},
        {"message": "m", KEY[:13]: KEY[13:]},
        {"message": "m", "metadata": {"raw": json.dumps({"error": {"message": json.dumps({"k": f"{KEY[:9]}\n{KEY[9:]}"})}})}},
        {"message": "m", "metadata": {"raw": b64encode(f"Authorization: {KEY}".encode()).decode()}},
        {"message": "m", "x": ["word"] * 97 + [KEY]},
        {"message": "m" * (MAX_READ_LENGTH - 30), "x": KEY, "y": KEY},
        {"message": "m" * (MAX_READ_LENGTH - 12), "x": KEY},
        {"message": "m", "param": ("x" * (MAX_NAME_LENGTH - len(KEY))) + KEY},
    ],
)  # fmt: skip
def test_split_key_is_hidden(error: dict[str, Any]) -> None:
    """A key that is split over several fields, names, list items or lines, or cut at a limit, leaves no eight characters in a row."""
    shown = public_object(error, Secrets([KEY]))
    texts: list[str] = []

    def collect(value: Any) -> None:
        texts.append(value) if isinstance(value, str) else None
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(each)

    collect(shown)
    for text in ("".join(texts), json.dumps(shown), json.dumps(list(shown))):
        letters = "".join(filter(str.isalnum, text)).lower()
        wanted = "".join(filter(str.isalnum, KEY)).lower()
        assert not [at for at in range(len(wanted) - 7) if wanted[at : at + 8] in letters], text


def test_number_that_is_a_secret_is_dropped() -> None:
    """A password of digits is not shown as a number either; other numbers are."""
    assert public_object({"message": "m", "x": 98765432109, "n": [1795910400, 98765432109]}, Secrets(["98765432109"])) == {
        "message": "m",
        "n": [1795910400],
    }  # fmt: skip


def test_object_that_is_encoded_too_often_shows_no_text() -> None:
    """One part that cannot be read to its end hides all texts, since a secret may be split over them."""
    shown = public_object({"message": "m", "code": 7, "type": "t", "x": "V" * 3_900, "y": "text"}, Secrets([KEY]))
    assert shown == {"message": ENCODED_MESSAGE, "code": 7}

"""Redaction of upstream's error texts: what is kept, and what must never reach a client."""

from __future__ import annotations

import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import pytest

from sidecar.upstream.errors.public_object import public_object
from sidecar.upstream.errors.redact import MAX_TEXT_LENGTH, PAGE_MESSAGE, redact
from sidecar.upstream.errors.secret_values import Secrets

SECRET_KEY = "sEcr3t/KeyOf+Ours"
MAX_CPU_SECONDS = 0.5
"""Seconds of CPU that no text of 8 kB may take; an ordinary one takes a hundredth of it."""


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4096 tokens, e.g. 3000 in the messages, i.e. too many.",
        "Unknown model.Please choose another one.",
        "The limit is 4096.Please shorten it.",
        "Cannot use llama3.2.However, qwen2.5-coder is there.",
        "The file prompt.txt is too large; so are song.mp3, my-song.mp4 and llama-2-7b.Q4_K_M.gguf.",
        "Unknown parameter: messages.content",
        "Invalid type for messages[0].content: expected one of a string or array of objects",
        "Invalid value: messages[12].content[0].image_url.url",
        "tools.0.function.parameters must be an object",
        "messages.0.content.1.image.source.base64.data: Image exceeds 5 MB maximum: 5382340 bytes > 5242880 bytes",
        "messages.12.content.0.tool_use.input and tools.3.custom.input_schema.type are required",
        "* GenerateContentRequest.tools[0].function_declarations[0].name: Invalid function name.",
        "GenerateContentRequest.contents: contents is not specified",
        "Please retry after 2025-03-01T12:34:56Z, or from 2025-03-01T12:34:56.789+00:00 on.",
        "duplicate ids: chatcmpl-tool-5f3b2c1d9e8f7a6b5c4d3e2f1a0b9c8d, toolu_vrtx_01A09q90qw90lq917835lq9",
        "request chatcmpl-550e8400-e29b-41d4-a716-446655440000 was aborted",
        "body.messages.1.role is not of chat.completions",
        "Set stream_options.include_usage, or response_format.json_schema.name, or tool_choice.function.",
        "models: gpt-4o, gpt-3.5-turbo, llama3.2, llama3.2:latest, qwen2.5-coder:7b, claude-3.5-sonnet, gpt-oss:20b",
        "anthropic.claude-3-sonnet-20240229-v1:0 is not here, nor is meta-llama/Llama-3.2-Vision",
        "needs version 1.2.3, v0.6.3.post1 or 2.1.0-rc.beta",
        "at 10:30 or 12:30:45 U.S. time, wait...then try",
        "code:400, tokens:4096",
        "stop must not contain \\n at all, nor n:10",
        "one line\\n at most.",
        "look at the prompt (3) at position 4",
        "a message with </think> in it, and <image> placeholders",
        "<image> placeholders: 3, images: 2",
        "Die Eingabe ist zu lang. 提示太长请缩短到4096个字符以内再试一次谢谢您的理解和配合祝您生活愉快工作顺利",
        "score: 0.75, ratio 3:4, temperature must be between 0.0 and 2.0",
    ],
)
def test_plain_text_is_unchanged(text: str) -> None:
    """Sentences, field paths, file names, versions and model names are unchanged."""
    assert redact(text, Secrets([SECRET_KEY])) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("HTTPConnectionPool(host='llm-worker-3', port=8000): refused", "llm-worker-3 8000"),
        ('{"host": "llm-worker-3"}', "llm-worker-3"),
        ("cannot resolve gpu7.mycompany.de", "gpu7 mycompany"),
        ("cannot resolve gpu7.mycompany.de.", "gpu7 mycompany"),
        ("from gpu-node.corp", "gpu corp"),
        ("from router.acme", "acme"),
        ("from messages.acme, tools.3acme.corp or GpuCluster.acme and GenerateContent.acme.com", "acme"),
        ("from 2025-03-01T12acme:8000", "acme"),
        ("from chat.acme.fr", "acme"),
        ("from ip-10-0-3-7.ec2", "10-0 ec2"),
        ("from IP-10-0-3-7", "10-0"),
        ("from gpu-node.rack12", "rack12"),
        ("from x.com.cn", "x.c .cn"),
        ("from my_service.internal or GPU.MyCompany.DE", "service MyCompany"),
        ("mail admin@acme-corp", "admin acme"),
        ("connect ECONNREFUSED worker", "worker"),
        ("getaddrinfo ENOTFOUND gpu-node", "gpu-node"),
        ("dial tcp: lookup gpu-node", "gpu-node"),
        ("llm-worker-3:8000 refused, vllm:443 too, localhost as well", "worker vllm localhost"),
        ("from 2001:db8::7", "2001 db8"),
        ("from fe80::1ff:fe23:4567:890a%eth0", "fe80 890a eth0"),
        ("from fe80::1ff:...", "fe80 1ff"),
        ("from [2001:db8::7]:8000 and 2001:0db8:0:0:0:0:0:7", "db8 8000"),
        ("from ::ffff:10.0.0.1", "ffff 10.0"),
        ("boom at com.acme.secret.Router.route(Router.java:10)", "acme Router"),
        ("boom\n\tat com.acme.secret.Router.route(Router.java:10)", "acme Router"),
        ("boom\\n    at run (server.js:10:5)\\n    at more", "run server more"),
        ("boom\\n\\tat com.acme.Router", "acme Router"),
        ("boom at run (/srv/router/server.js:10:5) and more", "srv server more"),
        ("goroutine 1 [running]: main.serve(0xc000)", "running serve 0xc"),
        ("panic: runtime error, main.serve(0xc000)", "runtime serve"),
        ("thread 'main' panicked at 'index', router/src/main.rs:10", "index router main.rs"),
        ("Stack trace: #0 Router->route()", "Router"),
        ("boom\\n/srv/router/app.py failed", "srv router"),
        ("\\\\fileserver\\share\\x", "fileserver share"),
        (f"key {SECRET_KEY.upper()} is bad", SECRET_KEY.upper()),
        (f"key {SECRET_KEY.lower()} is bad", SECRET_KEY.lower()),
        (f"key {quote(SECRET_KEY, safe='')} is bad", "sEcr3t KeyOf"),
        ("key " + "".join(f"%{ord(char):02X}" for char in SECRET_KEY) + " is bad", "%73%45 %4B"),
        *[
            (f"key {b64encode(b'x' * n + SECRET_KEY.encode() + b'y').decode()} is bad", "VjcjN Vjc lY3 WNyM")
            for n in range(3)
        ],
        (f"key {urlsafe_b64encode(SECRET_KEY.encode()).decode()} is bad", "c0Vjc"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    """Hosts, addresses, stack traces and our own keys, in any encoding, are masked."""
    clean = redact(text, Secrets([SECRET_KEY]))

    assert not [each for each in secret.split() if each in clean], clean
    assert ".cn" not in clean


@pytest.mark.parametrize(
    "text",
    [
        "<!-- made by router-7 --><html><p>secret</p></html>",
        "\ufeff <!-- x --> <p>secret</p>",
        '<?xml version="1.0"?><Error><Host>secret</Host></Error>',
        "<Error><Host>secret</Host></Error>",
        '<center class="x"><h1>502</h1></center>',
        "Error 502: <HTML><body>secret",
    ],
)
def test_page_is_replaced(text: str) -> None:
    """A text with markup is replaced as a whole."""
    assert redact(text) == PAGE_MESSAGE


def test_short_key_is_masked_exactly() -> None:
    """A key that is only a short word masks that word in its exact spelling."""
    assert redact("the body is empty, not EMPTY", Secrets(["EMPTY"])) == "the body is empty, not [redacted]"


@pytest.mark.parametrize("key", ["x", "k", "o", "-", "none", "tok"])
def test_dummy_key_masks_no_part_of_a_word(key: str) -> None:
    """A dummy key of a client, such as `x` for a server without keys, leaves words and codes as they are."""
    error = {
        "message": "The context has 9 tokens too many.",
        "code": "context_length_exceeded",
        "type": "x_nonexistent",
    }

    assert public_object(error, Secrets([key]))["message"] == error["message"]
    assert public_object(error, Secrets([key]))["code"] == error["code"]


@pytest.mark.parametrize(
    "name", ["Throttling.AllocationQuota", "litellm.RateLimitError", "InternalError.Algo.InvalidParameter"]
)
def test_dotted_code_is_no_host(name: str) -> None:
    """Codes of DashScope and LiteLLM have dots; a host before such a word is masked all the same."""
    assert redact(f"{name}: no") == f"{name}: no"
    assert public_object({"message": "m", "code": name})["code"] == name
    assert "corp" not in redact("gpu7.corp.internal.RateLimit")


@pytest.mark.parametrize(
    "word",
    [
        *("org-abcDEF123ghiJKL456mnoPQR", "proj_Ab12Cd34Ef56Gh78", "3f2a9c81d0e4b7f65a1c2d3e4f5a6b7c", "llm-7d9f8b6c5d-x2k9p"),
        *("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "A1B2C3D4E5F6G7", "0x7f8a1b2c3d4e"),
        *("dXNlcjpodW50ZXIyLWh1bnRlcjM=", "AKIAIOSFODNN7EXAMPLE", "hf-like_aB3dE5fG7hI9"),
    ],
)  # fmt: skip
def test_word_that_looks_random_is_masked(word: str) -> None:
    """Keys that the sidecar does not know, tokens, hashes, and identifiers of accounts and containers are masked."""
    assert redact(f"no {word} here") == "no [redacted] here"


@pytest.mark.parametrize(
    "word",
    [
        *("Qwen3-235B-A22B-Instruct-2507-FP8", "meta-llama-Llama-3-70B-Instruct-function-calling", "phi-3.5-mini-instruct-q4f16_1-MLC"),
        *("anthropic.claude-3-5-sonnet-20241022-v2", "ft:gpt-4o-mini-2024-07-18:acme:suffix:7p4lURel", "Mixtral-8x7B-Instruct-v0.1-GPTQ"),
        *("req_011CSHoEeqs5C35K2UUqR7Fy", "call_abc123DEF456ghi789JKL0", "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT"),
        *("550e8400-e29b-41d4-a716-446655440000", "20260926T121408Z", "1795910400123456", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    ],
)  # fmt: skip
def test_name_is_no_random_word(word: str) -> None:
    """Names of models, identifiers of requests and tool calls, times and numbers are unchanged, however long."""
    assert redact(f"no {word} here") == f"no {word} here"


@pytest.mark.parametrize(
    "unit",
    [
        *"a-._:/\\<%@[('\"= \n\t0A1",
        *("a.", "a-", "a:", "1.", "1:", "a@", "/a", "a/", "./", "\\n", "\\n ", "\n at ", "at a.", "at ", "<a ", "<!", "::", "0:"),
        *("sk-", "key ", "token ", "token=", "bearer ", "host=", "host ", 'File "', "a://", "ip-1-", "%73", "sE", "a\\", "C:\\", "(a:1", " (a"),
    ],
)  # fmt: skip
def test_time_is_linear(unit: str) -> None:
    """No hostile text takes long: not 8 kB of one pattern, alone or with a prefix or suffix."""
    for text in (unit * 8_000, "x" + unit * 8_000 + "!", "<p " + unit * 8_000, "token" + unit * 8_000):
        before = time.process_time()
        clean = redact(text, Secrets([SECRET_KEY]))
        assert time.process_time() - before < MAX_CPU_SECONDS
        assert len(clean) <= MAX_TEXT_LENGTH


@pytest.mark.parametrize(
    "text",
    [
        "key sk-proj-abc123def456 is bad",
        "Incorrect API key provided: sk-12***********wxyz.",
        "see https://internal.example.com/path?x=1",
        "cannot reach db.internal:5432",
        "host 10.1.2.3:80 refused",
        "[::1]:8000 refused",
        "Authorization: Bearer abcdefghijkl",
        "api_key=abcd1234efgh",
        "in /usr/lib/python3/site-packages/vllm/engine.py",
        'Traceback (most recent call last):\n  File "/x/y.py", line 3, in f',
        "boom\n    at run (server.js:10:5)",
        "C:\\Users\\me\\app.py",
        "hush-hush",
    ],
)  # fmt: skip
def test_secrets_hosts_and_traces_are_removed(text: str) -> None:
    """Keys, hosts, paths and stack traces are removed."""
    clean = redact(text, Secrets(["hush-hush"]))
    for secret in ("sk-proj", "wxyz", "example.com", "internal", "10.1.2.3", "::1", "abcdefghijkl", "abcd1234", "/usr", "y.py", "server.js", "Users", "hush"):  # fmt: skip
        assert secret not in clean


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (1000 in the messages, 4000 in the completion).",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "The model `gpt-9` does not exist",
    ],
)  # fmt: skip
def test_ordinary_sentence_is_unchanged(text: str) -> None:
    """An ordinary error message is unchanged."""
    assert redact(text) == text


def test_text_is_bounded() -> None:
    """A long text is cut, and a page is replaced by a sentence."""
    assert len(redact("word " * 10_000)) == MAX_TEXT_LENGTH
    assert redact("<!DOCTYPE html><p>secret") == PAGE_MESSAGE

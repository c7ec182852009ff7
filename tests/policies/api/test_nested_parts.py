"""The size and the text of parts that have parts or a source: documents, results and calls of tools (Anthropic)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.decoding.token_counts import MEDIA_TOKENS
from policies.api.prompt_size import MAX_NESTED_READS, MAX_READ_ITEMS, bound_tokens, size_of
from policies.api.requests.request_form import RequestForm
from policies.testing import make_call

DATA = "A" * 40_000
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": DATA}}
TEXT = {"type": "text", "text": "word " * 1_000}


def result(*content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": list(content)}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, "title": "A title"}


@pytest.mark.parametrize(
    ("part", "least", "most", "media", "has_file"),
    [
        (IMAGE, 0, 0, 1, False),
        (PDF, 400, 600, 1, True),
        (document(type="text", data="word " * 1_000), 5_000, 5_100, 0, False),
        (document(type="content", content=[TEXT, IMAGE]), 5_000, 5_100, 1, False),
        (document(type="content", content="word " * 1_000), 5_000, 5_100, 0, False),
        (document(type="url", url="https://example.org/a.pdf"), 0, 200, 1, False),
        (document(type="file", file_id="file_1"), 0, 200, 1, False),
        (document(data="word " * 1_000), 5_000, 5_100, 1, False),
        (result(TEXT), 5_000, 5_100, 0, False),
        (result(TEXT, IMAGE, IMAGE), 5_000, 5_100, 2, False),
        (result(PDF), 400, 700, 1, True),
        (result(result(result(TEXT))), 5_000, 5_300, 0, False),
        ({"type": "tool_result", "tool_use_id": "t", "content": "word " * 1_000}, 5_000, 5_100, 0, False),
        ({"type": "tool_use", "id": "t", "name": "n", "input": {"a": "word " * 1_000}}, 5_000, 5_100, 0, False),
        ({"type": "server_tool_use", "id": "t", "name": "n", "input": {}}, 40, 100, 0, False),
        ({"type": "web_search_tool_result", "tool_use_id": "t", "content": [{"type": "web_search_result", "encrypted_content": "x" * 900}]}, 900, 1_100, 0, False),
        ({"type": "thinking", "thinking": "word " * 1_000, "signature": "s"}, 5_000, 5_100, 0, False),
        ({"type": "redacted_thinking", "data": "x" * 500}, 500, 600, 0, False),
        ({"type": "search_result", "source": "https://example.org", "title": "t", "content": [TEXT]}, 5_000, 5_200, 0, False),
        ({"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}, 2, 70, 0, False),
        (result(IMAGE, IMAGE) | {"text": ""}, 40, 100, 2, False),
    ],
)  # fmt: skip
def test_nested_parts_are_measured(part: dict[str, Any], least: int, most: int, media: int, *, has_file: bool) -> None:
    """Text counts in full, an image as one, a file in base64 by a hundredth of its bytes; calls and results are no media."""
    size = size_of(make_call(messages=[{"role": "user", "content": [part]}]))
    assert least <= size.bytes <= most
    assert (size.media, size.files > 0) == (media, has_file)


def test_conversation_with_tools_costs_about_its_text() -> None:
    """A hundred calls and results of tools count as their text, not as a hundred images."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a"}}
    turns = [
        {"role": role, "content": [part]}
        for _ in range(100)
        for role, part in (("assistant", call), ("user", result(TEXT)))
    ]
    size = size_of(make_call(messages=turns))
    assert size.media == 0
    assert 500_000 <= size.bytes <= 520_000


@pytest.mark.parametrize("count", [MAX_NESTED_READS + 1, MAX_READ_ITEMS + 1])
def test_many_inner_parts_are_measured_at_once(count: int) -> None:
    """Inner parts beyond the limit count as JSON, and those that may be media as such."""
    part = {"type": "text", "text": "ab"}
    size = size_of(make_call(messages=[{"role": "user", "content": [result(*([part] * count))]}]))
    assert size.bytes >= 2 * count
    assert size.media <= 1
    images = size_of(
        make_call(messages=[{"role": "user", "content": [result(*([{"type": "image", "source": {}}] * count))]}])
    )
    assert images.media >= count


PARTS = st.recursive(
    st.sampled_from([TEXT, IMAGE, PDF, document(type="text", data="x"), {"type": "image_url", "image_url": "u"}, {}, "text", None]),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: result(*parts)) | st.lists(inner, max_size=3).map(lambda parts: document(type="content", content=parts)),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(PARTS, max_size=4))
def test_bound_is_never_below_the_bytes_and_the_media(parts: list[Any]) -> None:
    """The bound of any nested prompt has each byte and each inner part that is media, whatever its place."""
    call = make_call(messages=[{"role": "user", "content": parts}])
    encoded = sum(len(msgspec.json.encode(part)) for part in parts if isinstance(part, dict) and part != TEXT)
    media = sum(
        msgspec.json.encode(parts).count(mark)
        for mark in (b'"type":"image"', b'"type":"image_url"', b'"application/pdf"')
    )
    assert bound_tokens(call) >= encoded + MEDIA_TOKENS * media
    assert bound_tokens(call) >= size_of(call).bytes


def test_text_of_documents_and_calls_is_read_by_filters() -> None:
    """Filters of words find text in documents, results and arguments, and can replace that of documents."""
    parts = [
        document(type="text", data="first secret"),
        document(type="content", content=[{"type": "text", "text": "second secret"}]),
        result({"type": "text", "text": "third secret"}, document(type="text", data="fourth secret")),
        {"type": "tool_use", "id": "t", "name": "n", "input": {"query": "fifth secret"}},
        document(type="base64", data="secretsecret"),
    ]
    call = make_call(messages=[{"role": "user", "content": parts}])
    assert [word in call.text for word in ("first", "second", "third", "fourth", "fifth", "A title")] == [True] * 6
    assert "secretsecret" not in call.text
    call.replace_text(lambda text: text.replace("secret", "word"))
    assert "first word" in call.text
    assert "second word" in call.text
    assert "fourth word" in call.text
    assert call.messages[0]["content"][4] == parts[4]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "text", "text": "word " * 50},
        {"type": "text", "text": "", "role": "user", "content": "word " * 50},
        {"type": "text", "text": "word " * 50, "source": {"type": "url", "url": "u"}},
    ],
)
def test_prompt_of_many_messages_counts_all_of_its_bytes(message: dict[str, Any]) -> None:
    """Messages beyond those that are read one by one never lower the size, also if they look like parts that are text."""
    call = make_call(messages=[message] * (2 * MAX_READ_ITEMS - 1))
    size = size_of(call)
    assert size.media >= 0
    assert size.bytes >= 250 * len(call.messages)
    assert bound_tokens(call) >= 250 * len(call.messages)


SYSTEM_REQUEST = RequestForm(name="messages", prompt_fields=("system", "messages"), parts_field="system")


@pytest.mark.parametrize(
    ("system", "media"),
    [
        ("word " * 1_000, 0),
        ([TEXT], 0),
        ([TEXT, IMAGE, PDF], 2),
        ([TEXT] * (MAX_READ_ITEMS + 1), 0),
        ([["word " * 1_000]], 0),
        ([result(TEXT)], 0),
    ],
)
def test_parts_of_instructions_are_measured(system: Any, media: int) -> None:
    """A list of instructions is one message: its texts and media count wherever they are in it."""
    call = make_call("hi", body={"system": system}, operation=SYSTEM_REQUEST)
    size = size_of(call)
    assert size.bytes >= 5_000
    assert (size.media, size.token_ids, size.messages) == (media, 0, 2)
    assert bound_tokens(call) >= 5_000 + media * MEDIA_TOKENS
    assert "word word" in call.text


SEARCHED = {"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "secret"}]}


@pytest.mark.parametrize(
    "part",
    [
        result(SEARCHED),
        result(result(SEARCHED)),
        result(document(type="content", content=[{"type": "text", "text": "secret"}])),
        {"type": "tool_result", "tool_use_id": "t", "content": {"type": "text", "text": "secret"}},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": "secret", "b": [{"c": "secret"}]}},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": "secret"}, "source": ""},
    ],
)
def test_texts_that_filters_see_can_be_replaced(part: dict[str, Any]) -> None:
    """A filter replaces all texts that `call.text` shows, however deep they are."""
    call = make_call(messages=[{"role": "user", "content": [part]}])
    assert "secret" in call.text
    seen: list[str] = []

    def change(text: str) -> str:
        seen.append(text)
        return text.replace("secret", "word")

    call.replace_text(change)
    assert "secret" not in str(call.body)
    assert seen.count("secret") == str(part).count("secret")

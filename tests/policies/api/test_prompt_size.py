"""The size of a prompt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.api.decoding.token_counts import MEDIA_TOKENS
from policies.api.prompt_size import MAX_FIELDS, MAX_READ_ITEMS, bound_tokens, size_of
from policies.api.tokens import Size
from policies.testing import make_call


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ({"role": "user", "content": "abc"}, Size(3, 1)),
        ({"role": "user", "content": "\U0001f98a"}, Size(4, 1)),
        ({"role": "user", "content": [{"type": "text", "text": "ab"}] * 50}, Size(100, 1, parts=49)),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 999}}]},
            Size(0, 1, media=1),
        ),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, Size(27, 1)),
        ({"role": "user", "content": []}, Size(0, 1)),
        ({"content": None}, Size(0, 1)),
        ({"role": "user", "content": ["ab", "\U0001f98a"]}, Size(6, 1, parts=1)),
        ({"role": "user", "content": [{"text": "ab"}]}, Size(2, 1)),
        ({"role": "user", "content": [{"text": "ab", "x": 1}]}, Size(2 + 19 - 4, 1)),
        ({"role": "user", "content": {"type": "text", "text": "ab"}}, Size(2, 1)),
        ({"role": "user", "content": {"x": [1]}}, Size(9, 1)),
        ({"role": "user", "content": 12.5}, Size(4, 1)),
        ({"role": "user", "content": [{"x": "ab"}, None, 7]}, Size(10 + 4 + 1, 1, parts=2)),
        ({"role": "user", "content": [{"type": [], "x": "ab"}]}, Size(20, 1)),
        ({"role": "user", "content": [{"image_url": {"url": "u" * 99}}]}, Size(14, 1, media=1)),
        ({"role": "user", "content": [{"image_url": "u", "text": "ab"}]}, Size(2 + 29 - 4, 1, media=1)),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "ab"}]}, Size(35, 1)),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "ab"}]}, Size(33, 1)),
        ({"role": "user", "content": [{"type": "thing", "thing": "ab"}]}, Size(29, 1, media=1)),
        ({"role": "control", "content": "ab"}, Size(2, 1)),
        ({"role": "r" * 500, "content": "ab"}, Size(504, 1)),
    ],
)
def test_all_that_a_model_reads_counts(message: dict[str, Any], size: Size) -> None:
    """The size of a prompt counts text in UTF-8, parts and tool calls, and the number of images."""
    assert size_of(make_call(messages=[message])) == size


def test_short_unread_fields_count_nothing() -> None:
    """A field that no model reads counts nothing up to 256 bytes, and fully above that."""
    usual = {"user": "u" * 254, "stop": ["a"], "reasoning_effort": "low", "stream_options": {"include_usage": True}}
    assert size_of(make_call("hi", body=usual)).bytes == 2
    assert size_of(make_call("hi", body={"user": "u" * 255})).bytes == 2 + 257
    assert size_of(make_call(messages=[{"role": "user", "content": "hi", "id": "i" * 254}])).bytes == 2


def test_tool_definitions_count() -> None:
    """Tool definitions and response formats are part of the prompt."""
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 1000}}]
    call = make_call("hi", body={"tools": tools, "response_format": {"type": "json_object"}})

    assert size_of(call).bytes > 1000


LARGE: Any = "x" * 3_000
DATA_URL = "data:image/png;base64," + "A" * 3_000
HIDING_PLACES = (
    [
        pytest.param({"messages": [{"role": "user", "content": [part]}]}, id=name)
        for name, part in {
            "text": {"type": "text", "text": LARGE},
            "data URL": {"type": "image_url", "image_url": {"url": DATA_URL}},
            "data URL as a string": {"type": "image_url", "image_url": DATA_URL},
            "data URL without a type": {"image_url": {"url": DATA_URL}},
            "key of an image": {"type": "image_url", "image_url": {"url": "u", LARGE: 1}},
            "extra key of an image": {"type": "image_url", "image_url": {"url": "u"}, "caption": LARGE},
            "extra key as a key": {"type": "image_url", "image_url": {"url": "u"}, LARGE: None},
            "audio": {"type": "input_audio", "input_audio": {"data": LARGE, "format": "wav"}},
            "file": {"type": "file", "file": {"file_data": LARGE}},
            "video": {"type": "video_url", "video_url": {"url": DATA_URL}},
            "Anthropic image": {"type": "image", "source": {"type": "base64", "data": LARGE}},
            "unknown type": {"type": "thing", "thing": [LARGE]},
            "no type": {"thing": LARGE},
            "type itself": {"type": LARGE},
            "thinking": {"type": "thinking", "thinking": "", "signature": LARGE},
            "extra key of text": {"type": "text", "text": "", "cache_control": {LARGE: 1}},
            "nested list": [[LARGE]],
            "undecoded": msgspec.Raw(msgspec.json.encode({"type": "image_url", "image_url": {"url": DATA_URL}})),
            "undecoded URL": {"type": "image_url", "image_url": msgspec.Raw(msgspec.json.encode({"url": DATA_URL}))},
        }.items()
    ]
    + [
        pytest.param({"messages": [{"role": "user", "content": "hi", **beside}]}, id=f"message {name}")
        for name, beside in {
            "id": {"id": LARGE},
            "name": {"name": LARGE},
            "role": {"role": LARGE},
            "images": {"images": [LARGE]},
            "key": {LARGE: 1},
            "tool calls": {"tool_calls": [{"function": {"arguments": LARGE}}]},
            "reasoning": {"reasoning_content": LARGE},
            "output": {"output": LARGE},
            "part of an output": {"output": [{"type": "input_text", "text": LARGE}]},
            "output as one part": {"outputs": {"type": "thing", LARGE: 1}},
            "undecoded": {"x": msgspec.Raw(msgspec.json.encode(LARGE))},
        }.items()
    ]
    + [
        pytest.param({"messages": [], field: value}, id=f"field {field[:20]}")
        for field, value in {
            "chat_template": LARGE,
            "chat_template_kwargs": {"x": LARGE},
            "tools": [{"function": {"description": LARGE}}],
            "functions": [{LARGE: 1}],
            "response_format": {"json_schema": {"schema": {"description": LARGE}}},
            "documents": [{"text": LARGE}],
            "guided_json": {"description": LARGE},
            "guided_regex": LARGE,
            "prediction": {"content": LARGE},
            "metadata": {"x": LARGE},
            "stop": [LARGE],
            "user": LARGE,
            "reasoning_effort": LARGE,
            "prompt": LARGE,
            "numbers": [1] * 1_500,
            LARGE: 1,
            "undecoded": msgspec.Raw(msgspec.json.encode([LARGE])),
            "logit_bias": msgspec.Raw(msgspec.json.encode({LARGE: 1})),
        }.items()
    ]
)


@pytest.mark.parametrize("body", HIDING_PLACES)
def test_bound_counts_all_bytes_wherever_they_are(body: dict[str, Any]) -> None:
    """The bound counts every byte that is forwarded as a token, of values and keys, decoded or not."""
    call = make_call("hi")
    call.body.clear()
    call.body.update(body)
    assert bound_tokens(call) >= 3_000


NAMES = st.sampled_from(["role", "type", "text", "image_url", "content", "file", "url", "x", "input_audio"]) | st.text()
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=20)
    | st.sampled_from(["text", "image_url"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.builds(
        lambda content, beside, role: {**beside, "role": role, "content": content},
        VALUES,
        st.dictionaries(NAMES, VALUES, max_size=3),
        st.sampled_from(["user", "assistant"]) | st.text(max_size=9),
    ),
    max_size=4,
)
FRAME_WORDS = {"role", "content", "type", "text", "system", "developer", "user", "assistant", "tool", "function", "control"} | {
    "ipython", "model",
}  # fmt: skip


def text_bytes(value: object) -> int:
    """Return the UTF-8 bytes of all strings in *value*, keys included, but for words of the frame that every server prints."""
    if isinstance(value, str):
        return 0 if value in FRAME_WORDS else len(value.encode())
    if isinstance(value, list):
        return sum(map(text_bytes, value))
    return sum(text_bytes(key) + text_bytes(each) for key, each in value.items()) if isinstance(value, dict) else 0


@given(
    messages=MESSAGES, beside=st.dictionaries(st.text(min_size=1, max_size=9).map("x_{}".format), VALUES, max_size=4)
)
def test_bound_is_no_less_than_all_text(messages: list[dict[str, Any]], beside: dict[str, Any]) -> None:
    """Whatever the shape of a body, the bound is at least the UTF-8 bytes of all its keys and values."""
    call = make_call(messages=messages, body=beside)
    assert bound_tokens(call) >= text_bytes(messages) + text_bytes(beside)


def test_bound_of_text_is_its_bytes_and_eight_a_message() -> None:
    """A call of text alone needs its UTF-8 bytes, 8 tokens a message and 2 for each further part; short settings need none."""
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    messages: list[dict[str, Any]] = [{"role": "system", "content": "h\u00e9"}, {"role": "user", "content": parts}]
    settings = {"model": "m" * 200, "stream": True, "temperature": 0.5, "user": "u", "stop": ["."], "seed": 10**15}
    assert bound_tokens(make_call(messages=messages, body=settings)) == 3 + 3 + 2 * 8 + 2


def test_bound_counts_what_upstream_fetches_as_media() -> None:
    """A part that is not text counts `media` tokens beside its bytes, because it may refer to a file of any size."""
    for part in (
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "new_kind", "ref": "f"},
        {"type": "text", "text": "a", "image_url": {"url": "https://a/b.png"}},
        {"audio_url": {"url": "https://a/b.mp3"}},
    ):
        tokens = bound_tokens(make_call(messages=[{"role": "user", "content": [part]}]), 5_000)
        assert 5_000 + len(msgspec.json.encode(part)) <= tokens <= 5_000 + len(msgspec.json.encode(part)) + 8


def test_estimate_counts_data_urls_as_media() -> None:
    """An estimate counts a picture in a data URL as `media` tokens, not by its bytes."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    size = size_of(make_call(messages=[{"role": "user", "content": [part]}]))
    assert (size.bytes, size.media) == (0, 1)


def test_files_in_the_results_of_tools_count_as_media() -> None:
    """The output of a tool has parts as content has (Responses API): files by id count as media, pictures not by their bytes."""
    file = {"type": "input_file", "file_id": "f"}
    picture = {"type": "input_image", "image_url": DATA_URL}
    screen = {"type": "computer_screenshot", "image_url": DATA_URL}
    for output, media in ([file, picture], 2), (screen, 1), ([{"type": "input_text", "text": "a"}], 0):
        item: dict[str, Any] = {"type": "function_call_output", "call_id": "c", "output": output}
        size = size_of(make_call(messages=[item]))
        assert (size.bytes < 100, size.media) == (True, media)
        assert media * 5_000 < bound_tokens(make_call(messages=[item]), 5_000) < media * 9_000 + 200


def test_undecoded_fields_count_their_bytes() -> None:
    """A field that was not decoded counts like the same field decoded."""
    tools = [{"function": {"name": "f", "description": LARGE}}]
    decoded = make_call("hi", body={"tools": tools})
    raw = make_call("hi", body={"tools": msgspec.Raw(msgspec.json.encode(tools))})
    assert size_of(raw) == size_of(decoded)
    assert bound_tokens(raw) == bound_tokens(decoded)


@pytest.mark.parametrize("measure", [bound_tokens, lambda call: size_of(call).media * MEDIA_TOKENS])
def test_very_many_items_hide_no_media(measure: Any) -> None:
    """Parts and messages beyond those that are read one by one count their media too, and text counts none."""
    text, image = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": "https://a/b"}
    disguised = {"role": "user", **image}
    hiding: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": [text] * MAX_READ_ITEMS + [image] * 100}],
        [{"role": "user", "content": [image] * (MAX_READ_ITEMS + 100)}],
        [{"role": "user", "content": [text] * MAX_READ_ITEMS}, {"role": "user", "content": [disguised] * 100}],
        [{"role": "user", "content": "a"}] * MAX_READ_ITEMS + [{"role": "user", "content": [disguised]}] * 100,
    ]
    for messages in hiding:
        assert measure(make_call(messages=messages)) >= 100 * MEDIA_TOKENS
    plain: list[dict[str, Any]] = [{"role": "user", "content": "a {b}"}] * MAX_READ_ITEMS + [
        {"role": "user", "content": [text] * 3}
    ] * 100
    assert measure(make_call(messages=plain)) < 100 * MEDIA_TOKENS


def test_fields_beyond_the_bound_count_all() -> None:
    """In a body with very many fields, all of them count."""
    fields = {f"f{at}": 1 for at in range(MAX_FIELDS)}
    assert bound_tokens(make_call("hi", body={**fields, "user": "u" * 200})) > len(msgspec.json.encode(fields)) + 200

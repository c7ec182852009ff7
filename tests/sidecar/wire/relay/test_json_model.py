"""The model of a JSON body that is relayed: read, checked and replaced, and nothing else changed."""

from __future__ import annotations

import pytest

from sidecar.wire.relay.json_model import JsonFields
from sidecar.wire.request.routing_fields import RoutingField


def fields_of(raw: bytes) -> JsonFields:
    found = JsonFields.of(raw)
    assert found is not None
    return found


def test_other_fields_stay_as_they_were() -> None:
    """Replacing the model keeps the JSON of all other fields, numbers and escapes included."""
    raw = b'\xef\xbb\xbf{"a": 1.50, "model": "m", "b": {"c": [1e400, "\\u00e9"]}}'
    assert fields_of(raw).encoded("n") == b'{"a":1.50,"model":"n","b":{"c": [1e400, "\\u00e9"]}}'
    assert fields_of(raw).texts() == {"model": "m"}


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'"a"', b"{", b'{"a":1,}', b'{"model":"\\ud800"}', b"\xff", b'{"a":' + b"[" * 100_000]
)
def test_anything_else_has_no_fields(raw: bytes) -> None:
    """Bytes that are no JSON object have no fields."""
    assert JsonFields.of(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b'{"Model": "a"}',
        b'{"model": 1}',
        b'{"model": null}',
        b'{"models": ["a"]}',
        b'{"mod\\u0065l_override": "a"}',
        b'{"provider": {"order": ["x"]}}',
        b'{"extra_body": {"model": "a"}}',
        b'{"lora_adapter": "a"}',
        b"{" + b",".join(b'"%d":1' % at for at in range(1_001)) + b"}",
    ],
)
def test_fields_that_choose_another_model_are_refused(raw: bytes) -> None:
    """Another spelling of `model`, another type of it, and routing options of gateways are refused."""
    with pytest.raises(RoutingField):
        fields_of(raw).check()


@pytest.mark.parametrize(
    "raw", [b'{"model": "a", "query": "q", "top_n": 3}', b'{"model":"a","models":null,"fallbacks":[]}', b"{}"]
)
def test_plain_fields_pass(raw: bytes) -> None:
    """Fields of rerank, speech and the like pass, and so do routing options that choose nothing."""
    fields_of(raw).check()

"""The model of a multipart form: found in any split, and only where all servers find the same one."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.wire.relay.form_model import FormFault, FormReader, boundary_of

A_MODEL = b'content-disposition: form-data; name="model"\r\n\r\nsmall'
A_FILE = b'content-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n\x00\xff--xy\r\n--'


def form(*parts: bytes) -> bytes:
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + b"--xyz--\r\n"


def read(body: bytes, cuts: list[int] | None = None) -> FormReader:
    reader, at = FormReader(b"xyz"), 0
    for cut in [*sorted(cuts or []), len(body)]:
        reader.feed(body[at:cut])
        at = cut
    reader.end()
    return reader


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(A_MODEL, A_FILE), "small"),
        (form(A_FILE, A_MODEL), "small"),
        (form(A_MODEL, A_MODEL), "small"),
        (form(A_FILE), None),
        (form(A_MODEL.replace(b"small", b"")), ""),
        (
            form(b'Content-Disposition: form-data; name="model"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nb'),
            "b",
        ),
        (form(A_FILE.replace(b"a.wav", b'a\\"b.wav'), A_MODEL), "small"),
        (form(A_MODEL).removesuffix(b"\r\n"), "small"),
    ],
)
def test_model_is_found(body: bytes, model: str | None) -> None:
    """The field is found wherever it is, beside files with any bytes, and where it is repeated with one value."""
    assert read(body).model == model


@given(st.lists(st.integers(0, len(form(A_FILE, A_MODEL, A_FILE))), max_size=6))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    """The form is read the same, however it is split."""
    assert read(form(A_FILE, A_MODEL, A_FILE), cuts).model == "small"


FAULTS = {
    "two models": form(A_MODEL, A_MODEL.replace(b"small", b"big")),
    "preamble": b"x\r\n" + form(A_MODEL),
    "line feeds": form(A_MODEL).replace(b"\r\n", b"\n"),
    "boundary behind a line feed": form(A_MODEL, A_FILE.replace(b"--xy\r\n", b"\n--xyz\r\n")),
    "boundary in data": form(A_MODEL, A_FILE.replace(b"--xy", b"--xyz")),
    "longer boundary": form(A_MODEL, A_FILE.replace(b"--xy\r\n", b"\r\n--xyzz\r\n")),
    "bytes behind the end": form(A_MODEL) + b"--xyz\r\n",
    "no end": form(A_MODEL).removesuffix(b"--xyz--\r\n"),
    "folded head": form(b'content-disposition: form-data;\r\n name="model"\r\n\r\nbig'),
    "space before the colon": form(b'content-disposition : form-data; name="model"\r\n\r\nbig'),
    "name without quotes": form(b"content-disposition: form-data; name=model\r\n\r\nbig"),
    "extended name": form(b"content-disposition: form-data; name*=utf-8''model\r\n\r\nbig"),
    "escaped name": form(b'content-disposition: form-data; name="mod\\el"\r\n\r\nbig'),
    "two names": form(b'content-disposition: form-data; name="a"; name="model"\r\n\r\nbig'),
    "two dispositions": form(b'content-disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="model"\r\n\r\nbig'),
    "no disposition": form(b"content-type: text/plain\r\n\r\nbig"),
    "attachment": form(b'content-disposition: attachment; name="model"\r\n\r\nbig'),
    "model as a file": form(b'content-disposition: form-data; name="model"; filename="m"\r\n\r\nbig'),
    "encoded model": form(b'content-disposition: form-data; name="model"\r\ncontent-transfer-encoding: base64\r\n\r\nYmln'),
    "two encodings": form(b'content-disposition: form-data; name="model"\r\ncontent-transfer-encoding: quoted-printable\r\ncontent-transfer-encoding: binary\r\n\r\n=62ig'),
    "two types": form(b'content-disposition: form-data; name="model"\r\ncontent-type: text/plain; charset=utf-7\r\ncontent-type: text/plain\r\n\r\nbig'),
    "charset of all fields": form(A_MODEL, b'content-disposition: form-data; name="_charset_"\r\n\r\nutf-7'),
    "other charset": form(b'content-disposition: form-data; name="model"\r\ncontent-type: text/plain; charset=utf-16\r\n\r\nb'),
    "other case": form(b'content-disposition: form-data; name="Model"\r\n\r\nbig'),
    "list": form(b'content-disposition: form-data; name="model[]"\r\n\r\nbig'),
    "routing": form(b'content-disposition: form-data; name="provider"\r\n\r\nbig'),
    "bad UTF-8": form(b'content-disposition: form-data; name="model"\r\n\r\n\xff'),
    "long model": form(A_MODEL.replace(b"small", b"s" * 5_000)),
    "long head": form(b"x: " + b"y" * 9_000 + b"\r\n\r\n"),
    "many parts": form(*[A_FILE] * 1_001),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_forms_that_servers_read_differently_are_faults(name: str) -> None:
    """What could name another model to another server is refused, whole or byte by byte."""
    body = FAULTS[name]
    with pytest.raises(FormFault):
        read(body)
    if len(body) < 2_000:
        with pytest.raises(FormFault):
            read(body, list(range(len(body))))


@pytest.mark.parametrize("parts", [(A_MODEL, A_FILE), (A_FILE, A_MODEL), (A_MODEL, A_MODEL)])
def test_other_readers_find_the_same(parts: tuple[bytes, ...]) -> None:
    """The standard library finds the same model in a form that is accepted."""
    body = form(*parts)
    message = message_from_bytes(b"content-type: multipart/form-data; boundary=xyz\r\n\r\n" + body)
    named = [part for part in message.walk() if part.get_param("name", header="content-disposition") == "model"]
    assert {part.get_payload() for part in named} == {read(body).model}


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ("multipart/form-data; boundary=xyz", b"xyz"),
        ('Multipart/Form-Data;boundary="x y"', None),
        ('multipart/form-data; boundary="a-b"', b"a-b"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryAbC", b"----WebKitFormBoundaryAbC"),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; charset=utf-8; boundary=a", None),
        ("multipart/mixed; boundary=a", None),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
    ],
)
def test_boundaries_are_plain(kind: str, boundary: bytes | None) -> None:
    """Only a type with one plain boundary is read."""
    assert boundary_of(kind) == boundary

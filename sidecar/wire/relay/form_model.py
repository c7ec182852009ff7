"""Find the field `model` of a multipart form while the form streams through, in the one way that all servers read it.

Servers differ in how they read a form that is not written plainly. Examples are bare line feeds, folded headers, escaped
names, a boundary inside of data, and a second field of the same name. Such a form could name one model to the sidecar and another one to
the upstream, so it is a fault here. Forms of httpx, requests, browsers, Node.js and curl have none (RFC 7578, RFC 2046).
"""

from __future__ import annotations

import re
from enum import Enum, auto

from sidecar.wire.request.routing_fields import MAX_MODEL_NAME_LENGTH, is_routing_name

MAX_PART_HEAD_BYTES = 8_192
MAX_FORM_PARTS = 1_000
MODEL_FIELD, CHARSET_FIELD = "model", "_charset_"
"""The second one names the charset of the other fields, for servers that read it (RFC 7578, 4.6)."""
_HEAD_END, _LINE_END, _CLOSE_MARK = b"\r\n\r\n", b"\r\n", b"--"
_FORM_TYPE = re.compile(r"multipart/form-data\s*;\s*boundary=(\"?)([A-Za-z0-9'()+_,./:=?-]{1,70})\1\s*", re.IGNORECASE)
_PART_DISPOSITION = re.compile(
    r"form-data; ?name=\"([^\"\\\r\n]*)\"(; ?filename=\"(?:[^\"\\\r\n]|\\[^\r\n])*\")?(; ?filename\*=[^;\"\s]*)?"
)
_READ_HEADERS = ("content-disposition", "content-type", "content-transfer-encoding")
"""Headers of a part that decide what its data is. Of two with one name, some servers read the first, some the last."""
_PLAIN_TEXT = re.compile(r"text/plain(; ?charset=\"?utf-8\"?)?", re.IGNORECASE)


class FormFault(Exception):
    """The form can be read in several ways, or in none. The message is the reason."""


class _State(Enum):
    START = auto()
    HEAD = auto()
    DATA = auto()
    END = auto()


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a multipart form; None for another type, or one that is not written plainly."""
    found = _FORM_TYPE.fullmatch(content_type)
    return None if found is None else found[2].encode()


class FormReader:
    """Reads one form part by part; memory and time per byte are bounded.

    `model` is the value of the field, None until it has been read. Only its own value is kept.
    """

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._rest = b""
        self._state = _State.START
        self._value: bytearray | None = None
        self._parts = 0
        self.model: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the form has ended."""
        return self._state is _State.END

    def feed(self, data: bytes) -> None:
        """Read *data*, the next bytes of the form. Raises `FormFault`; the reader cannot be used afterwards."""
        self._rest += data
        while self._step():
            pass

    def end(self) -> None:
        """Note the end of the body. Raises `FormFault` if the form has not ended."""
        if self._state is not _State.END:
            msg = "it has no closing boundary"
            raise FormFault(msg)

    def _step(self) -> bool:
        """Read one part of the rest; return False if more bytes are needed."""
        if self._state is _State.HEAD:
            return self._read_head()
        if self._state is _State.END:
            if not _LINE_END.startswith(self._rest):
                msg = "it has bytes behind its closing boundary"
                raise FormFault(msg)
            return False
        return self._read_data()

    def _read_data(self) -> bool:
        rest, mark = self._rest, self._mark
        at = rest.find(mark)
        if at < 0:
            kept = len(mark) + len(_LINE_END)
            if self._state is _State.START and len(rest) > len(mark):
                msg = "it does not begin with its boundary"
                raise FormFault(msg)
            if self._state is _State.DATA and len(rest) > kept:
                self._keep(rest[:-kept])
                self._rest = rest[-kept:]
            return False
        behind = rest[at + len(mark) : at + len(mark) + 2]
        if len(behind) < len(_LINE_END):
            return False
        is_start = self._state is _State.START
        begins_line = at == 0 if is_start else rest[max(0, at - 2) : at] == _LINE_END
        if not begins_line or behind not in (_LINE_END, _CLOSE_MARK):
            msg = "its boundary occurs in its data"
            raise FormFault(msg)
        if not is_start:
            self._keep(rest[: at - len(_LINE_END)])
            self._end_part()
        self._rest = rest[at + len(mark) + 2 :]
        self._state = _State.HEAD if behind == _LINE_END else _State.END
        return True

    def _read_head(self) -> bool:
        head, end, rest = self._rest.partition(_HEAD_END)
        if len(head) > MAX_PART_HEAD_BYTES:
            msg = f"a part has a head of more than {MAX_PART_HEAD_BYTES} bytes"
            raise FormFault(msg)
        if not end:
            return False
        self._parts += 1
        if self._parts > MAX_FORM_PARTS:
            msg = f"it has more than {MAX_FORM_PARTS} parts"
            raise FormFault(msg)
        self._value = bytearray() if _is_model(head) else None
        # The line end of the head is also that in front of a boundary, where a part is empty.
        self._rest, self._state = _LINE_END + rest, _State.DATA
        return True

    def _keep(self, data: bytes) -> None:
        if self._value is not None:
            self._value += data
            if len(self._value) > MAX_MODEL_NAME_LENGTH * 4:
                msg = f"its model has more than {MAX_MODEL_NAME_LENGTH} characters"
                raise FormFault(msg)

    def _end_part(self) -> None:
        if self._value is None:
            return
        try:
            name = self._value.removeprefix(_LINE_END).decode()
        except UnicodeDecodeError:
            msg = "its model is not UTF-8"
            raise FormFault(msg) from None
        if self.model is not None and self.model != name:
            msg = "it names two models"
            raise FormFault(msg)
        self.model = name


def _is_model(head: bytes) -> bool:
    """Whether the part with this *head* is the field `model`. Raises `FormFault` for a head that is not written plainly."""
    fields: dict[str, str] = {}
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        msg = "the head of a part is not UTF-8"
        raise FormFault(msg) from None
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.lower()
        if not colon or not name.isascii() or name != name.strip() or not line.isprintable():
            msg = "the head of a part is not written plainly"
            raise FormFault(msg)
        if key in fields:
            msg = f"a part has two headers {key}"
            raise FormFault(msg)
        if key in _READ_HEADERS:
            fields[key] = value.strip()
    disposition, kind, encoding = (fields.get(key, "") for key in _READ_HEADERS)
    found = _PART_DISPOSITION.fullmatch(disposition)
    if found is None:
        msg = "the name of a part is not written plainly"
        raise FormFault(msg)
    name, is_file = found[1], found[2] or found[3]
    if name == CHARSET_FIELD:
        msg = "its field '_charset_' may change how its model is read"
        raise FormFault(msg)
    if name != MODEL_FIELD:
        if is_routing_name(name):
            msg = f"its field {name[:60]!r} may choose a model or a server"
            raise FormFault(msg)
        return False
    if is_file or encoding.lower() not in ("", "7bit", "8bit", "binary") or (kind and not _PLAIN_TEXT.fullmatch(kind)):
        msg = "its field 'model' is not plain text"
        raise FormFault(msg)
    return True

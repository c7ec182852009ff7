"""Escape values for log lines, so that none can end a line, forge another one or control a terminal."""

from __future__ import annotations

import re

is_plain = re.compile(r"[A-Za-z0-9._:/@+~*,{}\[\]-]+").fullmatch
"""Match a text that needs no quotes: one plain word."""
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DELETE_BYTE = b"\x7f"
_LAST_OF_ONE_UNIT = 0xFFFF


def quoted(text: str) -> str:
    r"""Return *text* as a value of a text line: unchanged if it is one plain word, else as a JSON string.

    Spaces, quotes, `=`, `>` and everything outside ASCII make it a JSON string.  Unprintable characters, among them line
    and paragraph separators, bidirectional controls and lone surrogates, become `\uXXXX`.
    """
    if is_plain(text):
        return text
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(_SHORT_ESCAPES.get(char) or _escape(char) for char in text) + '"'


def printable(text: str) -> str:
    r"""Return *text* with unprintable characters as `\uXXXX`, for whole lines."""
    return text if text.isprintable() else "".join(map(_escape, text))


def printable_json(line: bytes) -> bytes:
    r"""Return the JSON text *line* with DEL and unprintable non-ASCII characters, which encoders keep, as `\uXXXX`."""
    if line.isascii() and _DELETE_BYTE not in line:
        return line
    text = line.decode()
    return line if text.isprintable() else "".join(map(_escape, text)).encode()


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code <= _LAST_OF_ONE_UNIT:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"

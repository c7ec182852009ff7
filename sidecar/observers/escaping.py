"""Escapes for log lines: no value can end a line, start another one or send a control sequence to a terminal."""

from __future__ import annotations

import re

is_plain = re.compile(r"[A-Za-z0-9._:/@+~*,{}\[\]-]+").fullmatch
"""Match a text that needs no quotes: one plain word."""
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_DELETE = b"\x7f"
_LAST_OF_ONE_UNIT = 0xFFFF


def quoted(text: str) -> str:
    r"""Return *text* as a value of a text line: as it is if it is one plain word, otherwise as a JSON string.

    Spaces, quotes, `=`, `>` and everything outside ASCII make it a JSON string.  Unprintable characters, among them line
    and paragraph separators, bidirectional controls and lone surrogates, become `\uXXXX`.
    """
    if is_plain(text):
        return text
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(_SHORT.get(char) or _escape(char) for char in text) + '"'


def printable(text: str) -> str:
    r"""Return *text* with unprintable characters as `\uXXXX`, for lines that are no values."""
    return text if text.isprintable() else "".join(map(_escape, text))


def printable_json(line: bytes) -> bytes:
    r"""Return the JSON text *line* with unprintable characters, DEL and beyond ASCII, as `\uXXXX`; JSON encoders leave those."""
    if line.isascii() and _DELETE not in line:
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

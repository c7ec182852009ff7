"""The access log: one line per finished request."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from policies.records.record import Record
from sidecar.config.log import LogFormat, LogLevel, LogSettings

from .entry_format import MAX_LINE_BYTES
from .escaping import is_plain, printable_json, quoted
from .levels import LEVEL_NUMBERS, level_of
from .timestamp import TimestampFormat

EMPTY_VALUE = quoted("")
_TEXT_CHARACTERS = (256, 64, 8)
"""Lengths to which texts are cut, one after the other, until the line has at most `MAX_LINE_BYTES`."""


class AccessLog:
    """Observer that encodes each record once and hands the line to *write*; it bypasses stdlib `logging`.

    *write* must not block (`LineWriter.write`). Records below the configured level are not encoded.
    """

    def __init__(self, settings: LogSettings, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._least = LEVEL_NUMBERS[settings.level]
        self._encode = AccessLineFormat(settings.format).encode

    def observe(self, record: Record) -> None:
        """Write a line for *record* unless its level (`levels.level_of`) is below the configured one.

        Called once per request.
        """
        level = level_of(record)
        if LEVEL_NUMBERS[level] >= self._least:
            self._write(self._encode(record, level))

    async def close(self) -> None:
        """Do nothing: the owner of the `LineWriter` closes it, after the last log line of the process."""


class AccessLineFormat:
    """Encode records as lines of text or JSON."""

    def __init__(self, form: LogFormat) -> None:
        self._timestamps = TimestampFormat()
        self._encoder = msgspec.json.Encoder()
        self._line = self._json if form == "json" else self._text

    def encode(self, record: Record, level: LogLevel) -> bytes:
        r"""Return the line for *record*, with its `\n`. Texts are cut until it has at most `MAX_LINE_BYTES`."""
        try:
            line = self._line(record, level)
        except UnicodeEncodeError:  # a lone surrogate
            record = _changed(record, lambda text: text.encode(errors="backslashreplace").decode())
            line = self._line(record, level)
        for most in _TEXT_CHARACTERS:
            if len(line) <= MAX_LINE_BYTES:
                break
            line = self._line(_shortened(record, most), level)
        return line

    def _json(self, record: Record, level: LogLevel) -> bytes:
        time = self._timestamps.text(record.started_at + record.total_seconds)
        head = b'{"time":"%b","level":"%b","event":"request",' % (time.encode(), level.encode())
        return head + printable_json(self._encoder.encode(record))[1:] + b"\n"

    def _text(self, record: Record, level: LogLevel) -> bytes:
        time = self._timestamps.text(record.started_at + record.total_seconds)
        names = [record.request_id, record.method, record.route, record.tenant, record.ip, record.profile]
        names += record.model_asked, record.model_served, record.upstream, record.key_id
        if not is_plain("".join(names)):  # one check for all: in most lines no name needs quotes
            names = [name and quoted(name) for name in names]
        request_id, method, route, tenant, ip, profile, asked, served, upstream, key_id = names
        line = f"{time} {level.upper()} request id={request_id or EMPTY_VALUE}"
        if tenant:
            line += f" tenant={tenant}"
        if key_id:
            line += f" key_id={key_id}"
        if ip:
            line += f" ip={ip}"
        line += f" {method or EMPTY_VALUE} {route or EMPTY_VALUE} {record.status}"
        if record.ending != "done" or record.code:
            line += _refusal(record)
        if profile:
            line += f" profile={profile}"
        if served and served != asked:
            line += f" model={asked}->{served}"
        elif asked:
            line += f" model={asked}"
        if upstream:
            line += f" upstream={upstream}"
        return (line + _usage_and_times(record) + _attempts_and_notes(record) + "\n").encode()


def _refusal(record: Record) -> str:
    text = f" ending={record.ending}"
    if record.code:
        text += f" code={quoted(record.code)}"
    if record.rejected_by:
        text += f" policy={quoted(record.rejected_by)}"
    if record.error_kind:
        text += f" kind={quoted(record.error_kind)}"
    return text


def _usage_and_times(record: Record) -> str:
    text = ""
    if record.input_tokens or record.output_tokens:
        text += f" tokens={'' if record.tokens_exact else '~'}{record.input_tokens}/{record.output_tokens}"
        if record.cached_tokens:
            text += f" cached={record.cached_tokens}"
    if record.cost_usd is not None:
        text += f" cost=${f'{record.cost_usd:.12f}'.rstrip('0').rstrip('.')}"
    if record.first_output_seconds is not None:
        text += f" first={record.first_output_seconds:.3f}s"
    return f"{text} total={record.total_seconds:.3f}s"


def _attempts_and_notes(record: Record) -> str:
    text = f" attempts={record.attempts}" if record.attempts else ""
    if record.failed_attempts:
        text += f" failed={quoted(', '.join(f'{each.upstream}: {each.error_kind}' for each in record.failed_attempts))}"
    if record.upstream_error:
        text += f" upstream_error={quoted(record.upstream_error)}"
    if record.notes:
        text += f" notes={quoted('; '.join(record.notes))}"
    return text


def _changed(record: Record, change: Callable[[str], str]) -> Record:
    texts = {
        name: change(value) for name in record.__struct_fields__ if isinstance(value := getattr(record, name), str)
    }
    attempts = tuple(
        replace(each, upstream=change(each.upstream), error_kind=change(each.error_kind))
        for each in record.failed_attempts
    )
    return replace(record, **texts, notes=tuple(map(change, record.notes)), failed_attempts=attempts)


def _shortened(record: Record, most: int) -> Record:
    """Return *record* with texts of at most *most* characters, without notes, and with only its last failed attempt."""
    kept = replace(record, notes=(), failed_attempts=record.failed_attempts[-1:])
    return _changed(kept, lambda text: text if len(text) <= most else text[: most - 1] + "…")

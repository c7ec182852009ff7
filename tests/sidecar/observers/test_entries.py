"""State changes, and stdlib logging, in the form of the access log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.log import LogFormat, LogLevel, LogSettings
from sidecar.observers.entry_format import MAX_LINE_BYTES, EntryFormat
from sidecar.observers.log_handler import OWN_LOGGERS, LineHandler, install_log_handler
from sidecar.observers.state_log import MAX_SUBJECTS, StateLog

SECRET = "sk-secret-prompt"


class Lines(list[bytes]):
    """Takes lines."""

    def text(self) -> str:
        return b"".join(self).decode()


@pytest.fixture
def handler() -> Iterator[tuple[LineHandler, Lines]]:
    """Return a handler that is the only one, and its lines; the loggers are restored afterwards."""
    loggers = [logging.getLogger(), *map(logging.getLogger, OWN_LOGGERS)]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    lines = Lines()
    yield LineHandler(lines.append, EntryFormat("text")), lines
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


def record(message: object, *args: object, level: int = logging.WARNING, error: BaseException | None = None) -> Any:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("sidecar", level, __file__, 1, message, args, info)
    made.created = 1_764_346_831.5
    return made


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001  # any error of the table
        return caught


def test_state_is_written_once_per_change() -> None:
    """However often a state is reported, its change is one line, with the cause and how long the one before lasted."""
    lines, now = Lines(), iter([10.0, 22.5])
    states = StateLog(lines.append, EntryFormat("text", worker=2), "info", clock=lambda: next(now))
    states.expect("store", "up")
    assert not states.changed("store", "up", level="info")
    assert states.changed("store", "down", cause="connection refused", level="error")
    assert not states.changed("store", "down", cause="another time")
    assert states.changed("store", "up", level="info")
    assert lines.text() == (
        '1970-01-01T00:00:10.000Z ERROR state subject=store state=down was=up cause="connection refused" worker=2\n'
        "1970-01-01T00:00:22.500Z INFO state subject=store state=up was=down was_seconds=12.5 worker=2\n"
    )


def test_state_below_the_level_is_remembered() -> None:
    """A level that hides the recovery does not hide the next failure; subjects are bounded."""
    lines = Lines()
    states = StateLog(lines.append, EntryFormat("json"), "warning", clock=lambda: 1.0)
    for _ in range(2):
        states.changed("breaker openai", "open", cause="80 % failed")
        states.changed("breaker openai", "closed", level="info")
    assert [json.loads(line)["state"] for line in lines] == ["open", "open"]
    for at in range(2 * MAX_SUBJECTS):
        states.changed(f"subject {at}", "odd")
    assert states.changed("breaker openai", "open")


@pytest.mark.parametrize("form", ["text", "json"])
@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=3_000), min_size=5, max_size=5))
def test_entry_cannot_be_forged(form: LogFormat, texts: list[str]) -> None:
    """An entry is printable and bounded; in text only its trace has further lines, each indented by four spaces."""
    entry = EntryFormat(form).encode(1.0, "error", "log", {"logger": texts[0], "message": texts[1]}, texts[2:])
    assert len(entry) <= MAX_LINE_BYTES
    first, *more = entry.decode().removesuffix("\n").split("\n")
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in more)
    if form == "json":
        assert not more
        assert json.loads(first)["event"] == "log"


def test_logging_has_the_form_of_the_log(handler: tuple[LineHandler, Lines]) -> None:
    """A diagnostics line is written once, by the one handler, in the common form; libraries write from `warning`."""
    logging.getLogger("sidecar").addHandler(logging.StreamHandler())
    handles, lines = handler
    install_log_handler(handles, "info")
    logging.getLogger("sidecar").info("store does not answer: %s", "refused\nforged")
    logging.getLogger("httpx").info("HTTP Request: POST http://a/?key=secret")
    logging.getLogger("uvicorn.error").error("no")
    assert len(lines) == 2
    assert lines[0].decode()[24:] == ' INFO log logger=sidecar message="store does not answer: refused\\nforged"\n'
    assert lines[1].decode()[24:] == " ERROR log logger=uvicorn.error message=no\n"


@pytest.mark.parametrize(("number", "name"), [(5, "DEBUG"), (20, "INFO"), (25, "INFO"), (30, "WARNING"), (50, "ERROR")])
def test_stdlib_levels(handler: tuple[LineHandler, Lines], number: int, name: str) -> None:
    """Every number of stdlib logging has one of the four levels."""
    handler[0].emit(record("x", level=number))
    assert f" {name} log " in handler[1].text()


def test_repeated_message_is_counted(handler: tuple[LineHandler, Lines]) -> None:
    """The same message within ten seconds is written once; the next one states how many were left out."""
    handles, lines = handler
    for after in (0.0, 1.0, 9.0, 11.0):
        again = record("not settled yet: %s", "down")
        again.created += after
        handles.emit(again)
    assert len(lines) == 2
    assert lines[1].endswith(b" repeated=2\n")


def test_traceback_has_no_message(handler: tuple[LineHandler, Lines]) -> None:
    """Exceptions are logged with frames and class names: their messages may hold a prompt or a key."""
    inner = raised(KeyError(SECRET))
    outer = RuntimeError(SECRET)
    outer.__cause__ = ExceptionGroup(
        SECRET, [raised(ValueError(SECRET)), raised(ConnectionRefusedError(111, "refused"))]
    )
    outer.__cause__.__context__ = inner
    handler[0].emit(record("call %s failed", "c-1", error=raised(outer)))
    text = handler[1].text()
    assert SECRET not in text
    first, *trace = text.splitlines()
    assert first.endswith('message="call c-1 failed"')
    assert trace[-1] == "    RuntimeError"
    assert "      ConnectionRefusedError: [Errno 111] refused" in trace
    assert [line.strip() for line in trace if line.strip() in {"KeyError", "ExceptionGroup", "ValueError"}] == [
        "KeyError", "ValueError", "ExceptionGroup",
    ]  # fmt: skip
    assert any(line.endswith("in raised") for line in trace)


def test_revealing_objects_are_named_by_class(handler: tuple[LineHandler, Lines]) -> None:
    """An object in place of a message, or one whose repr fails, neither shows its content nor stops the caller."""

    class Revealing:
        def __repr__(self) -> str:
            raise ValueError(SECRET)

        def __str__(self) -> str:
            return SECRET

    handler[0].emit(record(Revealing()))
    handler[0].emit(record("bad %r", Revealing()))
    handler[0].emit(record("bad %d", "text"))
    text = handler[1].text()
    assert SECRET not in text
    assert text.count("\n") == 3
    assert "an object of test_revealing_objects_are_named_by_class.<locals>.Revealing" in text


def test_long_trace_keeps_its_inner_end() -> None:
    """A trace that does not fit loses its outermost lines."""
    trace = [f"{at} " + "f" * 150 for at in range(200)]
    entry = EntryFormat("text").encode(1.0, "error", "log", {"message": "m"}, trace).decode()
    assert trace[-1] in entry
    assert f"    {trace[0]}" not in entry


@pytest.mark.parametrize("settings", [{"format": "xml"}, {"level": "trace"}, {"colour": True}])
def test_log_settings_are_checked(settings: dict[str, object]) -> None:
    """`[log]` refuses what it does not know."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(settings, LogSettings)
    assert msgspec.convert({}, LogSettings) == LogSettings(format="text", level="info", access=True)


def test_levels_are_those_of_the_settings() -> None:
    """Each level of `[log]` is accepted."""
    levels: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")
    assert [msgspec.convert({"level": level}, LogSettings).level for level in levels] == list(levels)

"""The record of a request."""

from __future__ import annotations

import msgspec
import pytest
from records import make_record

from policies.records.observer import Observer
from policies.records.record import MAX_ERROR_CHARACTERS, MAX_NAME_CHARACTERS, MAX_NOTES, FailedAttempt, Record


def test_record_is_immutable() -> None:
    """An observer cannot change what the next one sees."""
    with pytest.raises(AttributeError):
        make_record().status = 500  # type: ignore[misc]  # the mistake that is tested


def test_texts_of_others_are_bounded() -> None:
    """What a client, an upstream or a policy chooses is cut to fixed lengths; the number of notes is bounded too."""
    attempts = tuple(FailedAttempt(upstream=str(at), error_kind="timeout") for at in range(100))
    record = make_record(
        model_asked="m" * 10_000,
        model_served="m" * 10_000,
        upstream_error="e" * 10_000,
        notes=("n" * 10_000,) * 100,
        failed_attempts=attempts,
    )
    assert len(record.model_asked) == len(record.model_served) == MAX_NAME_CHARACTERS
    assert len(record.upstream_error) == MAX_ERROR_CHARACTERS
    assert len(record.notes) == MAX_NOTES
    assert record.notes[-1] == "85 more notes"
    assert record.failed_attempts[-1].upstream == "99"
    assert len(msgspec.json.encode(record)) < 8_000


def test_record_has_no_field_for_content() -> None:
    """A record cannot hold a prompt, an answer, a key or a header other than `traceparent`."""
    words = {"prompt", "messages", "body", "answer", "content", "text", "key", "authorization", "headers", "user"}
    assert not words & set(Record.__struct_fields__)


def test_observer_needs_observe() -> None:
    """An observer that overrides nothing names what is missing."""

    class Empty(Observer, frozen=True):
        pass

    with pytest.raises(NotImplementedError, match="Empty must override observe"):
        Empty().start().observe(make_record())

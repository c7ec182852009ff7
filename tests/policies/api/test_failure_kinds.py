"""The kinds of failures: one table for classification, policies, messages and the README."""

from __future__ import annotations

import re

import openai
import pytest
from places import ROOT

from policies import Fallback, RetryClassifier
from policies.api.failure_kinds import FAILURE_CLASSES
from sidecar.downstream.upstream_failures import MESSAGES_BY_KIND
from sidecar.upstream.errors.classify import BY_CODE, BY_STATUS, BY_TEXT

FAILURES = (ROOT / "docs" / "failures.md").read_text()


def test_each_kind_has_a_message_and_an_exception() -> None:
    """Each kind of failure has a message for clients and an exception of the SDK; all codes and statuses map to a kind."""
    assert set(MESSAGES_BY_KIND) == set(FAILURE_CLASSES)
    assert all(issubclass(getattr(openai, message.raises), openai.APIError) for message in MESSAGES_BY_KIND.values())
    assert {*BY_CODE.values(), *BY_STATUS.values(), *(kind for _, kind in BY_TEXT)} <= set(FAILURE_CLASSES)
    assert all(each.why.endswith(".") for each in FAILURE_CLASSES.values())


def test_document_table_equals_the_code() -> None:
    """The table in docs/failures.md says what the code does: retry, fallback, status and exception."""
    table = FAILURES.split("| class | what happened |")[1].split("\n\n")[0]
    rows = {
        row[0].strip("` "): row
        for line in table.splitlines()[2:]
        if (row := [x.strip() for x in line.split("|")[1:-1]])
    }
    assert list(rows) == list(FAILURE_CLASSES)
    for name, (_, _, again, elsewhere, status, raises) in rows.items():
        each, message = FAILURE_CLASSES[name], MESSAGES_BY_KIND[name]
        is_taken_over = {each.family or name, name} & set(Fallback().on)
        assert (again, elsewhere) == ("yes" if each.retry else "", "yes" if is_taken_over else ""), name
        assert (int(status), raises.strip("`")) == (message.status, message.raises), name


@pytest.mark.parametrize(
    ("policy", "options", "fault"),
    [
        (RetryClassifier, {"on": ("sever",)}, "on[0]: 'sever' is not a class of failures; did you mean 'server'?"),
        (RetryClassifier, {"never": ("server", "status:x")}, "never[1]: 'status:x' is not a class of failures; use one of connect,"),
        (Fallback, {"on": ("code:",)}, "on[0]: 'code:' is not a class of failures; use one of connect,"),
        (Fallback, {"to": ("a", "a")}, "to: an upstream is listed twice; list each once"),
    ],
)  # fmt: skip
def test_misspelt_kind_is_refused(policy: type[Fallback], options: dict[str, object], fault: str) -> None:
    """A misspelt kind is an error when the policy is created, with the closest kind."""
    with pytest.raises(ValueError, match=re.escape(fault)):
        policy(**options)  # type: ignore[arg-type]  # a column of the table

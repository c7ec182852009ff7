"""Public API for policies on LLM calls: the interfaces, the built-in policies, and the chain that runs them."""

import warnings

from policies.api.call import Call, Caps
from policies.api.claim import By, Calendar, Claim, Identities, Sliding, Window
from policies.api.event import Batch, Event
from policies.api.failure import GIVE_UP, Decision, Failure, GiveUp, Retry
from policies.api.hooks import HookError
from policies.api.lease import ClaimLease, Ending, ExactCharge, Lease, Outcome
from policies.api.match import Match
from policies.api.policy import Policy, RunningPolicy
from policies.api.rejection import Rejection, Stop
from policies.api.services import Services
from policies.api.store import Grant, Standing, Store, StoreDown
from policies.api.upstream import Stream, Upstream, UpstreamError
from policies.api.usage import Usage
from policies.builtin.budget import Budget
from policies.builtin.fallback import Fallback
from policies.builtin.max_tokens import MaxTokens
from policies.builtin.params import Params
from policies.builtin.rate import Rate
from policies.builtin.retry import RetryClassifier
from policies.builtin.trim import Trim
from policies.engine.chain import Chain
from policies.records.observer import Observer, RunningObserver
from policies.records.record import FailedAttempt, Record

__all__ = [
    "GIVE_UP",
    "Batch",
    "Budget",
    "By",
    "Calendar",
    "Call",
    "Caps",
    "Chain",
    "Claim",
    "ClaimLease",
    "Decision",
    "Ending",
    "Event",
    "ExactCharge",
    "FailedAttempt",
    "Failure",
    "Fallback",
    "GiveUp",
    "Grant",
    "HookError",
    "Identities",
    "Lease",
    "Match",
    "MaxTokens",
    "Observer",
    "Outcome",
    "Params",
    "Policy",
    "Rate",
    "Record",
    "Rejection",
    "Retry",
    "RetryClassifier",
    "RunningObserver",
    "RunningPolicy",
    "Services",
    "Sliding",
    "Standing",
    "Stop",
    "Store",
    "StoreDown",
    "Stream",
    "Trim",
    "Upstream",
    "UpstreamError",
    "Usage",
    "Window",
]

_NEW_NAMES = {"Hooks": "RunningPolicy", "NO_RETRY": "GIVE_UP", "Only": "Match", "Process": "Services"}


def __getattr__(name: str) -> object:
    """Return a renamed class by its former name, with a `DeprecationWarning`."""
    if (new := _NEW_NAMES.get(name)) is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    warnings.warn(f"policies.{name} is now policies.{new}", DeprecationWarning, stacklevel=2)
    return globals()[new]

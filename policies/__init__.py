"""Policies for calls to language models: what one is, the chain that runs them, and the built-in ones."""

from policies.api.call import Call, Caps
from policies.api.claim import Claim
from policies.api.event import Batch, Event
from policies.api.failure import NO_RETRY, Failure, Retry
from policies.api.lease import Ending, Lease, Outcome
from policies.api.match import Only
from policies.api.policy import Hooks, Policy
from policies.api.rejection import Rejection, Stop
from policies.api.services import Process
from policies.api.store import Grant, Standing, Store, StoreDown
from policies.api.upstream import Stream, Upstream, UpstreamError
from policies.api.usage import Usage
from policies.api.window import Calendar, Sliding
from policies.builtin.budget import Budget
from policies.builtin.fallback import Fallback
from policies.builtin.max_tokens import MaxTokens
from policies.builtin.rate import Rate
from policies.builtin.retry import RetryClassifier
from policies.builtin.trim import Trim
from policies.engine.chain import Chain

__all__ = [
    "NO_RETRY",
    "Batch",
    "Budget",
    "Calendar",
    "Call",
    "Caps",
    "Chain",
    "Claim",
    "Ending",
    "Event",
    "Failure",
    "Fallback",
    "Grant",
    "Hooks",
    "Lease",
    "MaxTokens",
    "Only",
    "Outcome",
    "Policy",
    "Process",
    "Rate",
    "Rejection",
    "Retry",
    "RetryClassifier",
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
]

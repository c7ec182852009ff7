"""Policies for calls to language models: what one is, the chain that runs them, and the built-in ones."""

from .base import (
    NO_RETRY,
    Ending,
    Failure,
    Hooks,
    Lease,
    Outcome,
    Policy,
    Rejection,
    Retry,
    Stop,
)
from .budget import Budget
from .call import Call, Caps
from .chain import Chain
from .event import Batch, Event, Usage
from .fallback import Fallback
from .max_tokens import MaxTokens
from .only import Only
from .process import Process
from .rate import Rate
from .retry import RetryClassifier
from .store import Claim, Grant, Standing, Store, StoreDown
from .trim import Trim
from .upstream import Stream, Upstream, UpstreamError
from .window import Calendar, Sliding

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

"""Mistakes of policy authors that do not type-check: each marked line has the error of that code, and no other line has one."""

from policies import (
    Call,
    Claim,
    Decision,
    Event,
    Failure,
    Lease,
    Match,
    Outcome,
    Policy,
    Retry,
    RunningPolicy,
    Services,
    Usage,
)


class Sync(Policy, frozen=True):
    def admit(self, call: Call) -> Lease | None:  # error: override
        return None


class Returns(Policy, frozen=True):
    async def admit(self, call: Call) -> str:  # error: override
        return "a lease"


class Verdicts(Policy, frozen=True):
    def retry(self, call: Call, failure: Failure) -> bool:  # error: override
        return True


class TooFew(Policy, frozen=True):
    def retry(self, call: Call) -> Decision | None:  # error: override
        return None


class Starts(Policy, frozen=True):
    def start(self, services: Services) -> int:  # error: override
        return 1


class Wrong(Lease):
    def on_event(self, event: Event) -> str:  # error: override
        return event.text

    def charge(self, claim: Claim, usage: Usage) -> str:  # error: override
        return "much"

    def settle(self, outcome: Outcome) -> None:  # error: override
        return None


class Uses(Policy, frozen=True):
    limit: int = 1

    async def admit(self, call: Call) -> None:
        call.headers["x-team"] = "blue"  # error: index
        call.upstream = 3  # error: assignment
        call.shown  # error: attr-defined
        call.note(3)  # error: arg-type
        self.claim(call, 1)  # error: call-arg
        self.claim(call, 1, limit=1, window="day")  # error: arg-type
        self.claim(call, 1, limit=1, window=Match())  # error: arg-type
        self.limit = 2  # error: misc
        words: str = call.state["words"]  # error: assignment


class Old(RunningPolicy):
    async def enter(self, call: Call) -> Lease | None:
        Retry("soon")  # error: arg-type
        return Retry()  # error: return-value


Uses(only=Match())  # error: call-arg
Uses(limits=1)  # error: call-arg

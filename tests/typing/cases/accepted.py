"""Code of policy authors that type-checks: every part of the API once."""

from collections.abc import Sequence

from policies import (
    GIVE_UP,
    Calendar,
    Call,
    Claim,
    ClaimLease,
    Decision,
    Event,
    Failure,
    Lease,
    Match,
    Outcome,
    Policy,
    Rejection,
    Retry,
    RunningPolicy,
    Services,
    Sliding,
    Standing,
    Stop,
    Usage,
)


class Rewrites(Policy, frozen=True):
    words: list[str]
    model: str = ""

    async def admit(self, call: Call) -> None:
        if any(word in call.text for word in self.words):
            raise Rejection(400, "house_rules", "No.", error_type="policy")
        call.model = self.model or call.model
        call.upstream = "spare"
        call.state["rewrites.seen"] = True
        call.note(f"{len(call.messages)} messages from {call.headers.get('x-team', '')}")


class Images(Policy, frozen=True):
    per_day: int

    async def admit(self, call: Call) -> Lease:
        return ClaimLease(self.claim(call, 1, limit=self.per_day, window=Calendar("day"), by=["tenant", "user"]))


class Filter(Lease):
    def __init__(self, policy: Policy, call: Call) -> None:
        self.policy, self.call, self.held = policy, call, ""

    def claims(self) -> Sequence[Claim]:
        return [self.policy.claim(self.call, 3, limit=9, window=Sliding(60.0), unit="tokens", per_token=1, floor=1)]

    def charge(self, claim: Claim, usage: Usage) -> int:
        return super().charge(claim, usage) * 2

    def refusal(self, claim: Claim, standing: Standing) -> Rejection:
        return Rejection(429, "full", f"{standing.left} of {claim.limit} are left")

    def on_event(self, event: Event) -> Event | None:
        if event.tool:
            raise Stop("tool_calls")
        return event.with_text(event.text.upper()) if event.text else event.with_payload(event.data)

    def flush(self) -> Sequence[Event]:
        return [Event(text=self.held)]

    async def settle(self, outcome: Outcome) -> None:
        seconds: float = outcome.seconds
        first: float | None = outcome.seconds_to_first_output
        print(outcome.ending, outcome.status, outcome.kind, outcome.upstream, outcome.model, seconds, first)


class Judges(Policy, frozen=True):
    def retry(self, call: Call, failure: Failure) -> Decision | None:
        if failure.kind == "quota" or failure.status == 402:
            return GIVE_UP
        if failure.attempts_here > 2 or not failure.can_retry_here:
            return None
        error: Exception = failure.exception()
        return Retry(after=failure.retry_after or 0.5, upstream="spare") if str(error) else Retry()


class Queue(RunningPolicy):
    def __init__(self, slots: dict[str, int]) -> None:
        self.slots = slots

    async def enter(self, call: Call) -> Lease | None:
        return None

    async def stop(self) -> None:
        self.slots.clear()


def no_slots() -> dict[str, int]:
    return {}


class Queued(Policy, frozen=True):
    runs_once = False

    def start(self, services: Services) -> Queue:
        return Queue(services.shared("queued.slots", no_slots))


CHAIN: list[Policy] = [Rewrites(words=[]), Images(per_day=3, match=Match(path="/v1/*")), Judges(), Queued()]

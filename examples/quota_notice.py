"""A policy with a lease: stop an answer at a forbidden word, and log the cost of each call."""

import logging

from policies import Call, Event, Lease, Outcome, Policy, Stop

log = logging.getLogger("quota_notice")


class QuotaNotice(Policy, frozen=True):
    """Stop answers that contain `word`. Log one line per call, without its content."""

    word: str

    async def admit(self, call: Call) -> Lease:
        return Watch(self.word, call.tenant)


class Watch(Lease):
    def __init__(self, word: str, tenant: str) -> None:
        self.word, self.tenant, self.seen = word, tenant, ""

    def on_event(self, event: Event) -> Event:
        self.seen = (self.seen + event.text)[-len(self.word) * 2 :]
        if self.word in self.seen:
            raise Stop("content_filter")
        return event

    async def settle(self, outcome: Outcome) -> None:
        first = outcome.seconds_to_first_output
        waited = "no output" if first is None else f"output after {first:.2f} s"
        log.info(
            "%s: %s after %d attempts, %s: %s", self.tenant, outcome.ending, outcome.attempts, waited, outcome.usage
        )

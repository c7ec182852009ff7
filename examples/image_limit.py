"""A policy with its own limit: images in prompts per day, for each end user of a tenant."""

from policies import Calendar, Call, ClaimLease, Lease, Policy


class ImageLimit(Policy, frozen=True):
    per_day: int

    async def admit(self, call: Call) -> Lease | None:
        parts = [part for message in call.messages for part in message.get("content") or [] if isinstance(part, dict)]
        images = sum(part.get("type") == "image_url" for part in parts)
        if not images:
            return None
        return ClaimLease(self.claim(call, images, limit=self.per_day, window=Calendar("day"), by="user"))

"""A policy with its own limit: images in prompts per day, for each end user of a tenant."""

from policies import Calendar, Call, ClaimLease, Lease, Policy


class ImageLimit(Policy, frozen=True):
    per_day: int

    async def admit(self, call: Call) -> Lease | None:
        images = sum(part.get("type") == "image_url" for part in call.parts)
        if not images:
            return None
        return ClaimLease(self.claim(call, images, limit=self.per_day, window=Calendar("day"), by="user"))

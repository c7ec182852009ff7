"""The policy of the README: refuse prompts that contain a word of a list, and send all other calls to one model."""

from policies import Call, Policy, Rejection


class HouseRules(Policy, frozen=True):
    words: list[str]
    model: str = ""

    async def admit(self, call: Call) -> None:
        if any(word in call.text.lower() for word in self.words):
            raise Rejection(400, "house_rules", "Please ask about something else.")
        call.model = self.model or call.model

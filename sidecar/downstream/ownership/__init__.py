"""Which tenant a stored response, conversation or item belongs to, and which upstream has it."""

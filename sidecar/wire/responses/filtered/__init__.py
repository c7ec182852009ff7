"""Answers of the Responses API as policies see them, and as they have changed them."""

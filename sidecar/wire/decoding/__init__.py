"""Decode answers of any shape in bounded time: repairs, single choices, whole answers in steps."""

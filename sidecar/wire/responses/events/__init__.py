"""Decode events, items and response objects of the Responses API, and write the events that end a stream early."""

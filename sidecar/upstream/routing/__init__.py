"""Routing by model: what each upstream serves, and which of several gets a call."""

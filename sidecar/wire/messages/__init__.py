"""Anthropic's Messages API: its events, answers, requests and errors."""

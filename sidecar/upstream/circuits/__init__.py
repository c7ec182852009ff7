"""Circuits of the circuit breaker: their counts, their probes, and who is refused."""

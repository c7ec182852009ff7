"""Everything towards the model server: routing, attempts, connections, error classification."""

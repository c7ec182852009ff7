"""`GET /v1/usage`: the limits that can refuse the caller, read without a reservation."""

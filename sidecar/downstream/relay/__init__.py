"""Routes that relay a request and its answer as bytes."""

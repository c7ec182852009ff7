"""One module for each API that the sidecar serves: its paths, its requests, its answers and its errors."""

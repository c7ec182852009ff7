"""HTTP/1.1 towards clients: uvicorn's protocol with limits, deadlines and writes without `send`."""

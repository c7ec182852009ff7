"""Redis servers in use: which one has the keys, what is in flight, and how the server fares."""

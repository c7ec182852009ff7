"""Redis servers: their URL, the connections to them, which one has the keys, and what their errors mean."""

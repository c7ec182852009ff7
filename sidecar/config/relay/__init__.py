"""`[server] passthrough`: the routes that are relayed to an upstream without an API of their own."""

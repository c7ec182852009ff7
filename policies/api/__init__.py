"""The types that a policy author sees. Nothing here imports the engine, a store or a built-in policy."""

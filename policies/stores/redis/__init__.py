"""The Redis store. Read it from the top down.

- `store` has the methods of the contract. `messages` encodes them as operations of the `script`, and decodes its results.
- `batches` collects operations, and sends each batch by the link. `preparation` makes a store ready, or converts an older one.
- `link` executes the script on the server that has the keys, again after a failure. `retry_state` decides for how long.
- `servers.nodes` has the servers in use. Each `node` waits for replicas; its `pipeline` is a `connection` with many commands in flight.
- `servers.topology` and `servers.sentinel` find the server that has the keys. `servers.failures` has the messages of errors.
"""

"""Everything towards the client: requests, responses, running calls, client errors."""

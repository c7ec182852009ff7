"""What SQLite and Redis stores share: group commit, and the outage of a store."""

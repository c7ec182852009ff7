"""What SQLite and Redis stores share: group commit, deadlines, and the outage of a store."""

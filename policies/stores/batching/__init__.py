"""What stands above the stores of several calls: group commit, deadlines, and the memory that a store is down."""

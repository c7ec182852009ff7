"""The parts of request bodies that policies read, for each API."""

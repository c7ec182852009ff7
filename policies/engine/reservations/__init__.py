"""What calls have reserved: the amounts, their refusals, and how they are settled."""

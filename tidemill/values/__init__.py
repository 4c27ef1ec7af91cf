"""What a cell holds, and which type carries a column without changing it."""

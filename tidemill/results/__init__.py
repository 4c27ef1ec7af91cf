"""What changes a result table, and what holds of it: each change is one transaction."""

"""What a figure is, what it is made of, and what a report of them says."""

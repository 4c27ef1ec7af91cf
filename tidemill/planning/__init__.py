"""What would run, why, how long and at what cost."""

"""Rows to learn from: read, split into those that are learned from and those that are measured by, and looked over."""

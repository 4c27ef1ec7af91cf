"""Rows of many calls become answers of one version: they wait in a line, and share batches."""

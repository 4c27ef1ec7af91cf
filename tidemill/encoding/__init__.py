"""Rows become prepared items, and items become batches."""

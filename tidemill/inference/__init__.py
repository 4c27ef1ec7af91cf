"""Prepared items become answers."""

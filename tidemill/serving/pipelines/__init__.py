"""Pipelines that are served: the version of each that is promoted, and what is counted of it."""

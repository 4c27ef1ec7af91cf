"""Transformers' Trainer at work: it goes on where it was killed, and stops before it spoils what it has."""

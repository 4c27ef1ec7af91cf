"""Repositories on the Hub, written to: what a head has, what is to be sent, and the one commit that does it."""

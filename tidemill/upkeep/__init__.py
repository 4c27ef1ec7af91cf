"""Keeping house: what a lake and a store no longer need, what must be forgotten, what is damaged, and older layouts."""

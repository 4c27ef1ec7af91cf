"""Carrying a plan out: shards through the stages, their failures, and the run's own record."""

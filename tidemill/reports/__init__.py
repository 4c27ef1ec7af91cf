"""Telling people: status, alerts, comparisons, samples and where the time goes."""

"""The service as HTTP: who is let in, what a body may be, and what answers look like."""

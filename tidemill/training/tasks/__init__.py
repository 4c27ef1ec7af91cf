"""What can be learned: a module a model task, and what methods share."""

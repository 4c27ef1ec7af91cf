"""A model's folder in Transformers' format: which of its files are read, and what opens them."""

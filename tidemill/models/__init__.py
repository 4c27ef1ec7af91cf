"""What a model is: its files, its configuration, and the version that they name."""

"""What `auto` comes to on a CPU: the engines and dtypes that may compute a model, tried on rows of its own run."""

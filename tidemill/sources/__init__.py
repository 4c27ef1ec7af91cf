"""What exists: the files of a dataset, wherever they lie."""

"""Formats of columns, with an index: slices come from the index alone, rows by range, and of the columns asked for."""

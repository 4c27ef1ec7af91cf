"""A Space: a folder that answers with a table's model and shows its report, without the table."""

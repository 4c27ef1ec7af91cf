"""What people add to the tables of a lake: the right labels of rows, and which rows to label."""

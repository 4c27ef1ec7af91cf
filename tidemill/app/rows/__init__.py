"""The rows of a table as the app shows them: a page at a time, however many there are."""

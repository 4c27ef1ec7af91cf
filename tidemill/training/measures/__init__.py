"""How good a model is on rows that it did not learn from, with how sure that is."""

"""What a model is asked when it is opened: whether a row's answer is the same whatever else is computed with it."""

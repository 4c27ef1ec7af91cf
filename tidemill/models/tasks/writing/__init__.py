"""Tasks of models that write: a row's answer is a text, token by token."""

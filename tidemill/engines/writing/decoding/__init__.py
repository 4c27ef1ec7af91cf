"""How torch writes token by token: a loop over a model's forward pass, which gives each row what it is given alone."""

"""Results and models, taken elsewhere: to files, and to repositories on the Hub."""

"""What a training is given: its file, and the model that it begins with."""

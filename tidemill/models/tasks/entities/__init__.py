"""What a model says of each token becomes the entities of a text."""

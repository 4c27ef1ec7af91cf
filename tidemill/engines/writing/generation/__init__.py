"""What is asked of a model that writes, and what it wrote: all that its engines and its tasks say to each other."""

"""What is computed in float32 whatever the dtype: a classifier's head, and the models that 16 bits move too far."""

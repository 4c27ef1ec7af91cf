"""`tidemill train`: a better model out of rows that people labelled, in the format that the engine reads."""

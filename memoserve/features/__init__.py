"""What is known of windows without any model, computed in one pass over the training data."""

"""Weights: which files a checkpoint's are, what they hold, and fetching them from the hub."""

"""Transformers: the reference engine, and the eager forward that every engine is held against."""

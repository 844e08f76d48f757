"""What the words mean, in numbers. Every package may stand on this one."""

CONTINUATION = 32
"""Tokens of a continuation: a window is the context (32 tokens unless asked otherwise) and these."""

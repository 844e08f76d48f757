"""What a run reads and computes, held against all that says something about it."""

"""A run: check what it reads, plan what is missing, feed engines, write parts. `job` is the way in."""

"""Runs over HTTP: a queue in the store, the worker that carries it out, and who watches."""

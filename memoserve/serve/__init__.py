"""The evaluation service: a store over HTTP, runs that are submitted, watched and cancelled."""

from memoserve.serve.server import serve
from memoserve.serve.settings import Settings

__all__ = ["Settings", "serve"]

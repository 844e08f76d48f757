"""The queries: SQL files that each answer one question, found and run."""

from memoserve.queries.files import Column, Parameter, Query, find_query, list_queries
from memoserve.queries.run import Answer, check_parameters, run_query

__all__ = [
    "Answer",
    "Column",
    "Parameter",
    "Query",
    "check_parameters",
    "find_query",
    "list_queries",
    "run_query",
]

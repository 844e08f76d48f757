"""The queries: SQL files that each answer one question, their parameters, and answers as text."""

from memoserve.queries.answer import Answer
from memoserve.queries.files import ColumnMeaning, Parameter, Query, find_query, list_queries, read_query
from memoserve.queries.parameters import Value, typed_values

__all__ = [
    "Answer",
    "ColumnMeaning",
    "Parameter",
    "Query",
    "Value",
    "find_query",
    "list_queries",
    "read_query",
    "typed_values",
]

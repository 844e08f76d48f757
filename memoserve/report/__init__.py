"""Pictures of the queries' answers, and the report that puts them on one page."""

from memoserve.report.charts import CHARTS, Chart, find_chart
from memoserve.report.grammar import Look
from memoserve.report.render import FORMATS, write_picture

__all__ = ["CHARTS", "FORMATS", "Chart", "Look", "find_chart", "write_picture"]

"""Pictures of the queries' answers, and the report that puts them on one page."""

from memoserve.report.charts.all import CHARTS, find_chart
from memoserve.report.charts.base import Chart
from memoserve.report.grammar import Look
from memoserve.report.plot import Plot, draw
from memoserve.report.render import FORMATS, write_picture

__all__ = ["CHARTS", "FORMATS", "Chart", "Look", "Plot", "draw", "find_chart", "write_picture"]

"""Suites: which models, which checkpoints, where their weights are, and what they were trained on."""

from memoserve.suites.selector import label, select
from memoserve.suites.suite import Defect, Suite, SuiteSequences, load_suite, shipped_suites

__all__ = [
    "Defect",
    "Suite",
    "SuiteSequences",
    "label",
    "load_suite",
    "select",
    "shipped_suites",
]

"""Suites: which models, which checkpoints, where their weights are, and what they were trained on."""

from memoserve.suites.selector import label, select
from memoserve.suites.suite import (
    Checkpoint,
    Defect,
    Model,
    Suite,
    SuiteSequences,
    Weights,
    load_suite,
    shipped_suites,
)

__all__ = [
    "Checkpoint",
    "Defect",
    "Model",
    "Suite",
    "SuiteSequences",
    "Weights",
    "label",
    "load_suite",
    "select",
    "shipped_suites",
]

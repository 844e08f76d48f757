"""A run: plan what is missing, feed an engine, write parts."""

from memoserve.run.estimate import Estimate, estimate
from memoserve.run.events import Events
from memoserve.run.execute import Failure, Outcome, execute
from memoserve.run.fingerprint import fingerprint_of
from memoserve.run.plan import CheckpointPlan, Plan, make_plan, part_size_for
from memoserve.run.progress import Progress, duration, reporting

__all__ = [
    "CheckpointPlan",
    "Estimate",
    "Events",
    "Failure",
    "Outcome",
    "Plan",
    "Progress",
    "duration",
    "estimate",
    "execute",
    "fingerprint_of",
    "make_plan",
    "part_size_for",
    "reporting",
]

"""A run: plan what is missing, feed an engine, write parts."""

from memoserve.run.cluster import Cluster, Work, on_every_node
from memoserve.run.estimate import Estimate, estimate
from memoserve.run.events import Events, skipped
from memoserve.run.execute import Failure, Outcome, doubtful, execute, execute_on, make_lists
from memoserve.run.fingerprint import fingerprint_of
from memoserve.run.inputs import Inputs, check_inputs
from memoserve.run.local import devices_for
from memoserve.run.plan import CheckpointPlan, Plan, make_plan, part_size_for
from memoserve.run.progress import Progress, checked_line, duration, reporting
from memoserve.run.weights_check import WeightsReport, check_weights

__all__ = [
    "CheckpointPlan",
    "Cluster",
    "Estimate",
    "Events",
    "Failure",
    "Inputs",
    "Outcome",
    "Plan",
    "Progress",
    "WeightsReport",
    "Work",
    "check_inputs",
    "check_weights",
    "checked_line",
    "devices_for",
    "doubtful",
    "duration",
    "estimate",
    "execute",
    "execute_on",
    "fingerprint_of",
    "make_lists",
    "make_plan",
    "on_every_node",
    "part_size_for",
    "reporting",
    "skipped",
]

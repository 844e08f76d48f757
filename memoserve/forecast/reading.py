"""What a forecast reads of stores: to learn, to judge, to predict; each once."""

from __future__ import annotations

from dataclasses import dataclass, field

from memoserve.forecast.model import Taught
from memoserve.forecast.roles import Plan, Role
from memoserve.forecast.table import CAP, Rows, Table

_TAUGHT = 200_000
"""From how many windows a forecast is learned: memorized ones of all roles, and as many others."""
_SAMPLE = 1_000_000
"""Of how many windows without labels the base rate and the threshold are taken."""


@dataclass
class Reading:
    """Rows that were read, each once."""

    table: Table
    elsewhere: Table | None
    found: dict[tuple[str, Role], Rows] = field(default_factory=dict)

    def taught(self, plan: Plan) -> list[Taught]:
        """The roles of a plan with their labels."""
        table = self.elsewhere or self.table
        cap = max(_TAUGHT // max(len(plan.teachers), 1), 1)
        return [Taught(role, self._once("taught", role, table, cap)) for role in plan.teachers]

    def labelled(self, role: Role) -> Rows:
        """The target's own rows and labels: to judge, never to learn."""
        return self._once("judged", role, self.table, CAP)

    def sample(self, role: Role) -> Rows:
        """Rows of the target without labels."""
        key = "sampled", role
        if key not in self.found:
            self.found[key] = self.table.sample(role, _SAMPLE)
        return self.found[key]

    def _once(self, use: str, role: Role, table: Table, cap: int) -> Rows:
        key = use, role
        if key not in self.found:
            self.found[key] = table.labelled(role, cap)
        return self.found[key]

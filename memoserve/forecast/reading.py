"""What a forecast reads of stores: to learn, to judge, to predict; each once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from memoserve.forecast.model import Taught
from memoserve.forecast.roles import Plan, Role
from memoserve.forecast.table import Rows, Table

_TAUGHT = 30_000
"""From how many windows of a role a forecast is learned: memorized ones, and as many others."""
_JUDGED = 30_000
"""How many windows judge a target, likewise."""
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
        return [
            Taught(role, self._once("taught", role, lambda r: table.labelled(r, _TAUGHT)))
            for role in plan.teachers
        ]

    def labelled(self, role: Role) -> Rows:
        """The target's own rows and labels: to judge, never to learn."""
        return self._once("judged", role, lambda r: self.table.labelled(r, _JUDGED))

    def sample(self, role: Role) -> Rows:
        """Rows of the target without labels."""
        return self._once("sampled", role, lambda r: self.table.sample(r, _SAMPLE))

    def _once(self, use: str, role: Role, read: Callable[[Role], Rows]) -> Rows:
        if role.predictor is None:
            # Whatever predicts it: the rows are the same, and what is known without signals too.
            for (other_use, other), rows in self.found.items():
                if other_use == use and other.target == role.target:
                    return rows
        key = use, role
        if key not in self.found:
            self.found[key] = read(role)
        return self.found[key]

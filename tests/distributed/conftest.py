"""Of every test on a cluster."""

from __future__ import annotations

import pytest
from ray_cluster import Nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The module's cluster with two nodes at least."""
    cluster.have(2)
    return cluster

"""The conformance kit: what every backend must do, as cases that run against any plugin.

Levels: L0 hygiene of discovery, L1 device and allocator, L2 ops, L3 attention, L4 the engine on
whole models, L5 graphs, L6 collectives, L7 offline compilation, L8 speed. Each level, and each op
provider, runs in a process of its own. `windlass conformance NAME` is the command; a plugin's own
tests subclass `BackendConformance`. Importing this imports no torch.
"""

from windlass.testing.conformance.cases import Outcome
from windlass.testing.conformance.pytest_class import BackendConformance
from windlass.testing.conformance.report import Report
from windlass.testing.conformance.run import (
    DEFAULT_LEVELS,
    INTERPRETED_LEVELS,
    LEVELS,
    Target,
    prove,
)

__all__ = [
    "DEFAULT_LEVELS",
    "INTERPRETED_LEVELS",
    "LEVELS",
    "BackendConformance",
    "Outcome",
    "Report",
    "Target",
    "prove",
]

"""What the demo model knows about Windlass, as a table."""

from __future__ import annotations

from world.fact_type import Fact
from world.facts_identity import IDENTITY
from world.facts_serving import SERVING
from world.facts_windlass import WINDLASS

__all__ = ["FACTS", "Fact"]

FACTS: tuple[Fact, ...] = IDENTITY + WINDLASS + SERVING

"""The benchmark is not installed: the folder of its scripts goes on the path."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: the comparison on CPUs has a script of the same name.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks/gpu"))

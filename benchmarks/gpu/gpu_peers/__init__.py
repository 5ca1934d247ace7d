"""Windlass beside other engines on a GPU: the parts of `versus_peers.py`.

The protocol of the workers is that of the comparison on CPUs, whose folder goes on the path.
"""

import sys
from pathlib import Path

_CPU_FOLDER = str(Path(__file__).parents[2] / "cpu")
if _CPU_FOLDER not in sys.path:
    sys.path.append(_CPU_FOLDER)

"""One engine per NUMA node: its threads run there, so what they touch first lies there too."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from windlass.plugin.numa import NODES, NumaNode, numa_nodes

logger = logging.getLogger(__name__)


def bind_to_node(
    device_index: int, proc: Path = Path("/proc"), nodes: Path = NODES
) -> NumaNode | None:
    """Keep this process to the processors of a node; None, and nothing done, on a single node.

    Threads that start later inherit it. No memory policy is set: the kernel's own gives a thread
    pages of the node it runs on, and those of another only when its own has none left.
    """
    found = numa_nodes(proc, nodes)
    if len(found) <= 1:
        return None
    node = found[device_index]
    for thread in (proc / "self/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), node.cpus)
    logger.info("bound to the %d processors of NUMA node %d", len(node.cpus), node.index)
    return node

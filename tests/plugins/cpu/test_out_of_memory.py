"""A kernel that finds no memory says so, and works again once there is some.

Each case runs in a child whose address space ends a little above what it holds. The last run of a
case, with the limit lifted, must give what a first run would have given.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from windlass_cpu.built import library_path

pytestmark = [
    pytest.mark.skipif(library_path() is None, reason="the kernels were not built"),
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux'"),
    pytest.mark.skipif(
        "asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer ends the process instead"
    ),
]

_CHILD = """
import resource
import torch
from windlass.errors import OutOfMemoryError
from windlass_cpu import sampling
from windlass_cpu.library import num_threads, set_threads
from windlass_cpu.linear import Bf16Weight

def limited(call):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (8 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        call()
    except OutOfMemoryError as error:
        return str(error).partition(":")[0]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "no error"
"""

_CASES = {
    # Its scratch takes 64 MiB.
    "the calling thread": """
        set_threads(1)
        logits = torch.zeros(1, 8 << 20)
        logits[:, 7] = 100
        ones = torch.ones(1, dtype=torch.int64)
        sample = lambda: sampling.sample(logits, ones.float(), None, None, None, ones, ones)
        print(limited(sample), sample().tolist())
    """,
    # The calling thread has its scratch already.
    "a thread of the pool": """
        set_threads(1)
        logits = torch.zeros(1, 4 << 20)
        logits[:, 7] = 100
        def sample(rows):
            ones = torch.ones(rows, dtype=torch.int64)
            many = logits.expand(rows, -1)
            return sampling.sample(many, ones.float(), None, None, None, ones, ones)
        sample(1)
        set_threads(2)
        print(limited(lambda: sample(40)), list(set(sample(40).tolist())))
    """,
    "a product": """
        set_threads(2)
        weight = Bf16Weight(torch.ones(32, 1 << 16).bfloat16())
        x = torch.ones(400, 1 << 16).bfloat16()
        print(limited(lambda: weight.apply(x)), weight.apply(x)[399, :1].tolist())
    """,
    "the making of threads": """
        set_threads(1)
        print(limited(lambda: set_threads(64)), [num_threads()])
        set_threads(2)
    """,
}
_EXPECTED = {
    "the calling thread": "windlass_sample [7]",
    "a thread of the pool": "windlass_sample [7]",
    "a product": "windlass_linear_bf16 [65536.0]",
    "the making of threads": "windlass_set_threads [1]",
}


@pytest.mark.parametrize("case", _CASES)
def test_an_allocation_that_fails_is_an_error_with_the_name_of_the_entry(case: str) -> None:
    lines = [line.removeprefix("        ") for line in _CASES[case].splitlines()]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD + "\n".join(lines)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert child.stdout.strip() == _EXPECTED[case], child.stderr

"""Collectives: the identity in a world of one, torch.distributed in a world of two processes."""

import subprocess
import sys
from pathlib import Path

import torch

from windlass.backend import TorchCollectives

RANK = """
import sys
import torch
from torch.distributed import FileStore
from windlass.backend import TorchCollectives

rank = int(sys.argv[1])
group = TorchCollectives("gloo")
group.init(rank, 2, FileStore(sys.argv[2], 2), timeout=30.0)
mine = torch.arange(4.0).view(2, 2) + 10 * rank
total = torch.tensor([[10.0, 12.0], [14.0, 16.0]])
assert torch.equal(group.all_reduce(mine.clone()), total)
gathered = group.all_gather(mine, dim=0)
assert torch.equal(gathered, torch.cat((torch.arange(4.0).view(2, 2), mine if rank else mine + 10)))
assert torch.equal(group.reduce_scatter(mine, dim=0), total[rank : rank + 1])
shared = mine.clone()
group.broadcast(shared, 1)
assert torch.equal(shared, torch.arange(4.0).view(2, 2) + 10)
if rank == 0:
    group.send(mine, 1)
else:
    received = torch.empty(2, 2)
    group.receive(received, 0)
    assert torch.equal(received, mine - 10)
swapped = group.all_to_all(mine, [1, 1], [1, 1])
row = torch.arange(4.0).view(2, 2)[rank]
assert torch.equal(swapped, torch.stack((row, 10 + row)))
group.barrier()
group.close()
assert group.world_size == 1
print("done", rank)
"""


def test_a_world_of_one_is_the_identity() -> None:
    group = TorchCollectives("gloo")
    x = torch.randn(4, 3)
    assert torch.equal(group.all_reduce(x), x)
    assert torch.equal(group.all_gather(x), x)
    assert torch.equal(group.reduce_scatter(x), x)
    assert torch.equal(group.all_to_all(x, [4], [4]), x)
    group.broadcast(x, 0)
    group.barrier()


def test_two_processes_agree(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), store],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank, process in enumerate(ranks):
        out, err = process.communicate(timeout=120)
        assert out.strip() == f"done {rank}", err

"""The kernels' threads: shared by every caller, lent to one at a time."""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest
import torch

from windlass_cpu.built import library_path
from windlass_cpu.library import num_threads, set_threads
from windlass_cpu.linear import Bf16Weight

pytestmark = pytest.mark.skipif(library_path() is None, reason="the kernels were not built")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    set_threads(4)
    yield
    set_threads(torch.get_num_threads())


def product() -> tuple[Bf16Weight, torch.Tensor, torch.Tensor]:
    """A weight, inputs, and what they make."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 256, generator=generator).bfloat16()
    x = torch.randn(8, 256, generator=generator).bfloat16()
    packed = Bf16Weight(weight)
    return packed, x, packed.apply(x)


def test_the_number_of_threads_can_be_set_again() -> None:
    assert num_threads() == 4
    set_threads(2)
    assert num_threads() == 2
    set_threads(0)
    assert num_threads() == 1


def test_callers_on_several_threads_each_get_their_own_result() -> None:
    packed, x, expected = product()
    factors = [2.0**i for i in range(8)]

    def repeat(factor: float) -> bool:
        return all(torch.equal(packed.apply(x * factor), expected * factor) for _ in range(50))

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(repeat, factors))


def test_threads_that_fell_asleep_wake_up() -> None:
    packed, x, expected = product()
    for _ in range(5):
        time.sleep(0.002)  # ten times as long as a thread stays awake
        assert torch.equal(packed.apply(x), expected)


def _child(answer: Connection) -> None:
    torch.set_num_threads(
        1
    )  # the parent's OpenMP threads, which torch would wait for, are not here
    packed, x, _ = product()
    set_threads(3)
    answer.send((num_threads(), packed.apply(x).float().sum().item()))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own() -> None:
    _, _, expected = product()
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_child, args=(theirs,))
    child.start()
    assert mine.recv() == (3, expected.float().sum().item())
    child.join()
    assert child.exitcode == 0

"""Where the kernels run: Triton's interpreter on the CPU, or the GPU (TRITON_INTERPRET=0)."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device whose tensors the kernels take."""
    return torch.device("cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda")


@pytest.fixture(scope="session")
def dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """Model dtypes: the interpreter's arithmetic in bf16 is wrong, so bf16 needs a GPU."""
    plain = (torch.float32, torch.float16)
    return plain if device.type == "cpu" else (*plain, torch.bfloat16)

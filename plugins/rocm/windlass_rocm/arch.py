"""What differs among AMD's GPUs: wavefront, matrix instruction, fp8, local data share. No torch.

Sources: LLVM, "User Guide for AMDGPU Backend" (processors and target ids); AMD, "Instruction Set
Architecture" of CDNA 2, CDNA 3, CDNA 4, RDNA 3, RDNA 3.5 and RDNA 4. Triton 3.9 uses the fp8
conversions of CDNA 3 and 4; on RDNA 4 it computes what the chip has an instruction for.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from typing import Literal, NamedTuple

from windlass.errors import PluginError

_KIB = 1024
_NAME = re.compile(r"gfx([1-9][0-9]*)([0-9a-f])([0-9a-f])")


class Family(Enum):
    """CDNA computes (MI series), RDNA draws (Radeon); they differ in every table."""

    CDNA = "cdna"
    RDNA = "rdna"


Fp8 = Literal["float8_e4m3fn", "float8_e4m3fnuz"]
"""torch's names of the two e4m3 formats: OCP's, and the one without -0 and with twice the bias."""


class Architecture(NamedTuple):
    """A chip with tables of its own.

    `fp8` is the e4m3 format that it converts in one instruction (None: none), `shared_bytes` the
    local data share that a workgroup may take, `kpack` whether Triton may pack the inputs of two
    matrix instructions.
    """

    name: str
    family: Family
    fp8: Fp8 | None
    shared_bytes: int = 64 * _KIB
    kpack: bool = False

    @property
    def lanes(self) -> int:
        """Of a wavefront."""
        return 64 if self.family is Family.CDNA else 32

    @property
    def matrix_instruction(self) -> Literal["mfma", "wmma"]:
        """The family's, as it is named in assembly after "v_"."""
        return "mfma" if self.family is Family.CDNA else "wmma"


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture(name="gfx90a", family=Family.CDNA, fp8=None, kpack=True),
        Architecture(name="gfx942", family=Family.CDNA, fp8="float8_e4m3fnuz", kpack=True),
        Architecture(
            name="gfx950", family=Family.CDNA, fp8="float8_e4m3fn", shared_bytes=160 * _KIB
        ),
        Architecture(name="gfx1100", family=Family.RDNA, fp8=None),
        Architecture(name="gfx1201", family=Family.RDNA, fp8="float8_e4m3fn"),
    )
}
"""MI200, MI300, MI350, Radeon RX 7000 and RX 9000, each by one of its chips."""


def base_name(gcn_arch_name: str) -> str:
    """The processor of a target id: "gfx942" of "gfx942:sramecc+:xnack-"."""
    return gcn_arch_name.partition(":")[0]


@cache
def architecture_of(gcn_arch_name: str) -> Architecture:
    """The chip with tables whose entries this one ("gfx942:sramecc+:xnack-") takes.

    A chip that is not known takes those of the nearest older one of its family.

    Raises:
        PluginError: no AMD GPU, or one without matrix instructions.
    """
    name = base_name(gcn_arch_name)
    match = _NAME.fullmatch(name)
    if match is None:
        raise PluginError(f"{gcn_arch_name!r} is not the name of an AMD GPU such as 'gfx942'")
    version = (int(match[1]), int(match[2], 16), int(match[3], 16))
    for first, known in _FIRST:
        if version >= first:
            if known is None:
                break
            return ARCHITECTURES[known]
    raise PluginError(
        f"{name} has no matrix instructions (MFMA or WMMA), which the kernels need: the oldest "
        "GPUs that have them are the MI100 (gfx908) and the Radeon RX 7000 series (gfx1100)"
    )


_FIRST: tuple[tuple[tuple[int, int, int], str | None], ...] = (
    ((12, 0, 0), "gfx1201"),
    ((11, 0, 0), "gfx1100"),
    ((10, 0, 0), None),
    ((9, 5, 0), "gfx950"),
    ((9, 4, 0), "gfx942"),
    ((9, 0, 11), None),
    ((9, 0, 10), "gfx90a"),
    ((9, 0, 9), None),
    ((9, 0, 8), "gfx90a"),
)
"""From this version on, newest first: whose entries; None: no matrix instructions.

gfx909 and gfx90c are integrated GPUs of the family before CDNA, among CDNA's numbers.
"""

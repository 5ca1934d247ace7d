"""Intel's GPUs by the PCI id that sysfs and torch both tell, and what sets their families apart.

Ids are those of the Linux kernel (`include/drm/intel/pciids.h`). No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Family(Enum):
    """Chips that are programmed alike; the value is the `arch` of the contract.

    A sub-group (Triton's warp) of XE_HPC and XE2 has 16 or 32 lanes and 8 KiB of registers, twice
    that in large mode, and their matrix units (XMX) take 16 lanes. XE_LP and XE_HPG have half the
    registers; XE_LP has no matrix units, and those of XE_HPG take 8 lanes, for which Triton has no
    code.
    """

    XE_LP = "xe_lp"
    XE_HPG = "xe_hpg"
    XE_HPC = "xe_hpc"
    XE2 = "xe2"


@dataclass(frozen=True)
class Chip:
    """A generation of GPUs; `discrete` ones have memory of their own."""

    name: str
    family: Family
    discrete: bool = False


# First and last PCI id of each.
_CHIPS = (
    (0x0B69, 0x0BE5, Chip("Ponte Vecchio", Family.XE_HPC, discrete=True)),
    (0x4626, 0x46D4, Chip("Alder Lake", Family.XE_LP)),
    (0x4905, 0x4909, Chip("DG1", Family.XE_LP, discrete=True)),
    (0x4C80, 0x4C9A, Chip("Rocket Lake", Family.XE_LP)),
    (0x5690, 0x56C2, Chip("Alchemist", Family.XE_HPG, discrete=True)),
    (0x6420, 0x64B0, Chip("Lunar Lake", Family.XE2)),
    # Graphics of Alchemist's kind; some without matrix units, which Triton does not use anyway.
    (0x7D40, 0x7DD5, Chip("Meteor Lake or Arrow Lake", Family.XE_HPG)),
    (0x9A40, 0x9AF8, Chip("Tiger Lake", Family.XE_LP)),
    (0xA720, 0xA7AD, Chip("Raptor Lake", Family.XE_LP)),
    (0xB080, 0xB0B0, Chip("Panther Lake", Family.XE2)),
    (0xE202, 0xE223, Chip("Battlemage", Family.XE2, discrete=True)),
    (0xFD80, 0xFD81, Chip("Wildcat Lake", Family.XE2)),
)


def chip_of(device_id: int) -> Chip | None:
    """The chip with this PCI id; None for one that is older or newer than those known here."""
    return next((chip for first, last, chip in _CHIPS if first <= device_id <= last), None)


def family_by_features(*, matrix_lanes: int, block_loads: bool) -> Family:
    """The family whose tables suit an unknown chip.

    `matrix_lanes` of a sub-group that its matrix units take, 0 without them; `block_loads`: it
    loads two-dimensional blocks.
    """
    if matrix_lanes == 16 and block_loads:
        return Family.XE2
    return Family.XE_HPG if matrix_lanes else Family.XE_LP

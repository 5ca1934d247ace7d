"""Names of AMD's chips, and whose tables each takes."""

import pytest

from windlass.errors import PluginError
from windlass_rocm.arch import ARCHITECTURES, Family, architecture_of, base_name
from windlass_rocm.providers import aiter_providers


def test_features_stand_behind_the_name() -> None:
    assert base_name("gfx942:sramecc+:xnack-") == "gfx942"
    assert base_name("gfx1100") == "gfx1100"
    assert architecture_of("gfx90a:sramecc+:xnack-").name == "gfx90a"


@pytest.mark.parametrize(
    ("chip", "takes"),
    [
        *((name, name) for name in ARCHITECTURES),
        ("gfx908", "gfx90a"),
        ("gfx940", "gfx942"),
        ("gfx1103", "gfx1100"),
        ("gfx1151", "gfx1100"),
        ("gfx1200", "gfx1201"),
        ("gfx1250", "gfx1201"),
    ],
)
def test_an_unknown_chip_takes_the_entries_of_its_relative(chip: str, takes: str) -> None:
    assert architecture_of(chip) is ARCHITECTURES[takes]


@pytest.mark.parametrize("chip", ["gfx900", "gfx906", "gfx909", "gfx90c", "gfx1030", "gfx1036"])
def test_a_chip_without_matrix_instructions_is_refused_and_gets_no_ops(chip: str) -> None:
    with pytest.raises(PluginError, match=f"{chip} has no matrix instructions"):
        architecture_of(chip)
    assert aiter_providers(chip) == ()


@pytest.mark.parametrize("name", ["", "sm_90", "gfx", "gfx94"])
def test_what_is_no_name_of_a_chip_is_refused(name: str) -> None:
    with pytest.raises(PluginError, match="is not the name of an AMD GPU"):
        architecture_of(name)


def test_families_differ_in_wavefront_and_matrix_instruction() -> None:
    facts = {chip.family: (chip.lanes, chip.matrix_instruction) for chip in ARCHITECTURES.values()}
    assert facts == {Family.CDNA: (64, "mfma"), Family.RDNA: (32, "wmma")}


def test_chips_differ_in_fp8_and_in_the_local_data_share() -> None:
    assert {chip.name: chip.fp8 for chip in ARCHITECTURES.values()} == {
        "gfx90a": None,
        "gfx942": "float8_e4m3fnuz",
        "gfx950": "float8_e4m3fn",
        "gfx1100": None,
        "gfx1201": "float8_e4m3fn",
    }
    large = {chip.name for chip in ARCHITECTURES.values() if chip.shared_bytes > 64 << 10}
    assert large == {"gfx950"}

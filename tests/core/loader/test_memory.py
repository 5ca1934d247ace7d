"""No second copy of the weights is held while they are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

# Runs alone, so that nothing else's memory is counted. Mapped pages of the checkpoint belong to
# the page cache, so only anonymous memory counts, sampled while the weights are read.
MEASURE = """
import json, re, sys, threading
import torch
from windlass.backend import TorchBackend
from windlass.config import BackendConfig, ModelConfig
from windlass.loader import load_decoder
from windlass.plugin.spec import BackendSpec
import transformers.models.auto

def anonymous():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1])

spec = BackendSpec(name="reference", target="", device_type="cpu", priority=1)
backend = TorchBackend(spec, BackendConfig())
config = ModelConfig(
    model=sys.argv[1], dtype="bfloat16", quantization=sys.argv[2] or None, max_model_len=64
)
before, peak, reading = 0, 0, threading.Event()

def sample():
    global peak
    while not reading.wait(0.0005):
        peak = max(peak, anonymous())

def progress(what, share):
    global before
    before = before or anonymous()

thread = threading.Thread(target=sample)
thread.start()
loaded = load_decoder(config, backend, progress)
reading.set()
thread.join()
print(json.dumps({"peak": max(peak, anonymous()) - before, "weights": loaded.weight_bytes}))
"""
MIB = 1 << 20
ONE_LAYER = 11 * MIB
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A float32 checkpoint of about 200 MB in several files: 100 MB of bfloat16, 11 MB a layer."""
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=768,
        intermediate_size=1536,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=4,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(config, dtype=torch.float32).state_dict()
    weight_map = {name: f"{name.split('.')[2]}.safetensors" for name in shapes if "layers" in name}
    weight_map |= {name: "rest.safetensors" for name in shapes if "layers" not in name}
    for shard in set(weight_map.values()):
        names = [name for name, file in weight_map.items() if file == shard]
        save_file({name: torch.ones(shapes[name].shape) for name in names}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def measure(folder: Path, quantization: str = "") -> tuple[int, int]:
    """(peak while loading, weights) in bytes."""
    output = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), quantization],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    measured = json.loads(output)
    print(f"peak {measured['peak'] / MIB:.0f} MiB, weights {measured['weights'] / MIB:.0f} MiB")
    return measured["peak"], measured["weights"]


@needs_proc
def test_the_peak_while_loading_is_the_weights_and_one_layer(large: Path) -> None:
    peak, weights = measure(large)
    assert weights > 100e6
    assert 0.95 * weights < peak < weights + ONE_LAYER


@needs_proc
@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.6), ("int4", 0.4)])
def test_what_was_rounded_is_not_held_any_more(large: Path, quantization: str, most: float) -> None:
    peak, weights = measure(large, quantization)
    assert weights < most * 113e6
    # One weight as it was read, and some float32 copies of a part of it; all would be 9 layers.
    assert 0.95 * weights < peak < weights + 5 * ONE_LAYER

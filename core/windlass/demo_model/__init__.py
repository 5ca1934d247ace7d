"""The embedded demo model, in Hugging Face format: what ``windlass serve`` runs by default.

It was trained by ``examples/demo_model/train.py`` on sentences that a script made.
"""

from __future__ import annotations

from pathlib import Path

NAME = "windlass-demo"
"""What a server calls it."""


def path() -> Path:
    """Return the folder that holds the configuration, the weights and the tokenizer."""
    return Path(__file__).resolve().parent

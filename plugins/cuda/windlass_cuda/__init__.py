"""The cuda plugin: NVIDIA GPUs."""

"""The rocm plugin: AMD GPUs."""

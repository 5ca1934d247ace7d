"""The xpu plugin: Intel GPUs."""

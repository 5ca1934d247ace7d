"""Triton kernels that run unchanged on every chip that Triton compiles for.

Rules: no question to the device; whatever a chip decides arrives in a `LaunchConfig`; arithmetic in
fp32, which is also what makes the kernels right in Triton's interpreter; a launcher checks what its
kernel relies on. Importing this package imports triton; nothing in the core does.
"""

"""A backend's parts made of `windlass.kernels.triton`, for any chip that Triton compiles for.

A plugin subclasses `windlass.backend.triton.tuning.TritonTuning` with its chip's tables and hands
it to the parts here. Needs Triton, which `windlass.backend` itself does not.
"""

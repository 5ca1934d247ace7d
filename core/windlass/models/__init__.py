"""Architectures: what each checkpoint's configuration means to the one decoder."""

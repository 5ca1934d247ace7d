"""Windlass on the CPU."""

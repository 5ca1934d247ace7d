"""Windlass beside other engines on a CPU: the parts of `versus_peers.py`."""

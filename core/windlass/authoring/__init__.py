"""What helps to write a plugin: a distribution to start from, and a reference of the API.

The commands import it; a running engine never does.
"""

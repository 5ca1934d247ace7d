"""The models that a server was told of: loaded, swapped, put to sleep and woken."""

"""One file per surface; each exposes a `router`."""

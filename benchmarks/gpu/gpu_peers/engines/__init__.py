"""One worker process per engine; each module runs in that engine's own environment."""

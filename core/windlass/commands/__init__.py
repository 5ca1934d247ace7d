"""The commands of `windlass` that need no server; `windlass.cli` says what a command is."""

"""`windlass plugin`: what a plugin's author needs."""

HELP = "write a plugin for new hardware"
COMMANDS = {"new": "windlass.commands.plugin.new"}

"""`windlass bench`: measures the engine offline, or any OpenAI-compatible server under load."""

HELP = "measure latency, throughput, or a running server under load"
COMMANDS = {
    "latency": "windlass.commands.bench.latency",
    "throughput": "windlass.commands.bench.throughput",
    "serve": "windlass.commands.bench.serve",
}

"""What operators see and set: encryption, logs, metrics, traces."""

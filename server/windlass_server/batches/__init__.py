"""Files, batches of requests that run when the server has time, and `windlass run-batch`."""

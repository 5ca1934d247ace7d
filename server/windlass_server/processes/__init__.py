"""Several processes that answer HTTP, on one engine, under one supervisor."""

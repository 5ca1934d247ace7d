"""The HTTP server: OpenAI's API in front of `windlass.async_engine.AsyncEngine`."""

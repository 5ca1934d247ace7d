"""A Windlass backend that runs models in JAX."""

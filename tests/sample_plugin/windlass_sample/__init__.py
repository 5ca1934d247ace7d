"""A sample backend plugin."""

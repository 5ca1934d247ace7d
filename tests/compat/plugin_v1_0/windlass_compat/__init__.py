"""A backend of Windlass written for plugin API 1.0."""

"""The building blocks of the decoder: they hold weights and call the backend's ops."""

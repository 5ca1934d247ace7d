"""What a plugin is proved with: fakes that check, and generated inputs."""

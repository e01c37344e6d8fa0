"""Input profiles: what the inputs of a version looked like in training, for comparison with live inputs."""

"""The scenarios of a replay. Each is a policy with its own model registry, prediction log and list of decisions."""

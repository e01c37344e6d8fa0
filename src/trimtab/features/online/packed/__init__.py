"""The packed state of one entity: tiles, sketches, versions and ties."""

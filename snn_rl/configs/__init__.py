"""The presets, as Hydra YAML."""

"""Settings: schemas, presets and their composition from the command line."""

"""Helper functions without knowledge of the rest of the package."""

"""Helpers without knowledge of the project."""

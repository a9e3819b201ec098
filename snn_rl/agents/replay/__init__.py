"""Replay buffers and their files."""

"""Measurements: speed, memory and quality, against the machine's limits and other engines."""

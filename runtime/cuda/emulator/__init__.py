"""A GPU in Python, for tests: memory, races, schedules. Not in the wheel."""

"""Many texts at once: what waits for a pass, and what of it the next one takes. Ids and pages, never files or texts."""

"""Auto-tuning: what may be varied, how it is measured, how the best is looked for, and how it is told."""

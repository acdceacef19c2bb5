"""The demo models for tasks: what each is trained on, how, and how well it does (README.md in the parent)."""

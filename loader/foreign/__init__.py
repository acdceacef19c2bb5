"""Matrices that others quantised: what their config.json says, how their tensors lie, and what they become here."""

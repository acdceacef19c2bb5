"""Typed decisions: how likely each allowed answer to a question about a state is, without a token being written."""

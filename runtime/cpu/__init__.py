"""The CPU backend: sixteen-lane kernels, thread team, interpreter."""

"""The program on an NVIDIA GPU. Kernels are Python functions against one facade; nothing of CUDA is imported here."""

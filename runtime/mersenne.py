"""PyTorch's random numbers on a CPU: MT19937 (Matsumoto and Nishimura 1998), which NumPy has too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["words"]

_U32, _WHOLE = 2**32 - 1, 2**64 - 1


def words(seed: int, n: int) -> NDArray[np.uint32]:
    """The first n of 32 bits of `torch.Generator().manual_seed(seed)`; a seed's lower half counts."""
    return np.random.RandomState(seed % _WHOLE & _U32).randint(0, 2**32, n, np.uint32)

"""Where the training of a small BERT starts, so that it soon knows which tokens of two texts are the same.

From random weights that takes long: nothing tells a head that its query and its key should be alike, and no position is
near another one (Olsson et al. 2022 for how suddenly such heads form). So two heads of the first layer start with one
random projection for queries and keys, and positions start as waves (Vaswani et al. 2017), of which near ones are
alike. All of it is trained on like any other weight.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import BertModel

__all__ = ["start_matching", "waves"]

HEADS = 2
SCALE = (
    1.3  # of the projection: exp(4 SCALE**2) is how much more a token of width 64 attends to its like than to others
)
WAVES = 5, 400  # the shortest and the longest, in tokens


def start_matching(model: BertModel) -> None:
    """Set the first layer's first heads and the positions."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    config, attention = model.config, model.encoder.layer[0].attention.self
    d_head = config.hidden_size // config.num_attention_heads
    with torch.no_grad():
        for head in range(HEADS):
            orthogonal, _ = torch.linalg.qr(torch.randn(config.hidden_size, d_head))
            for product in (attention.query, attention.key):
                product.weight[head * d_head : (head + 1) * d_head] = orthogonal.T * SCALE
        positions = model.embeddings.position_embeddings.weight
        positions.copy_(waves(*positions.shape) * config.initializer_range)


def waves(n: int, width: int) -> torch.Tensor:
    """[n, width]: sines and cosines, from -1 to 1, of `width / 2` wavelengths."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    lengths = torch.logspace(*map(math.log10, WAVES), width // 2)
    angles = torch.arange(n)[:, None] * (2 * math.pi / lengths)  # [n, 1] x [width / 2] -> [n, width / 2]
    return torch.cat([angles.sin(), angles.cos()], 1)

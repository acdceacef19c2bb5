"""What a step is told: a batch of tokens, those of any number of sequences end to end.

`Batch` is what Python fills and every backend reads. Its arrays are int64 words that kernels load by address, so
nothing is copied on the CPU; the tables below name the words.

| word of a token | meaning                                                                                         |
|-----------------|-------------------------------------------------------------------------------------------------|
| `T_ID`          | the token's id                                                                                  |
| `T_SEQUENCE`    | which of the batch's sequences it belongs to                                                    |
| `T_POSITION`    | its position: its row in RoPE's and other tables of positions                                   |
| `T_SLOT`        | where its key and value lie in its sequence's cache                                             |
| `T_FIRST`       | the first slot that it sees                                                                     |
| `T_LAST`        | the last slot that it sees: its own where it sees none after it, else its sequence's last       |
| `T_TYPE`        | its token type (BERT's segments)                                                                |
| `T_ROW`         | the row of logits that it fills, -1 for none                                                    |

| word of a sequence | meaning                                                                                      |
|--------------------|----------------------------------------------------------------------------------------------|
| `Q_FIRST`          | its first token in the batch                                                                 |
| `Q_COUNT`          | how many tokens it has there                                                                 |
| `Q_TABLES`         | address of its page tables, int32 [groups][pages of a sequence] (`kvcache.py`)               |
| `Q_ENCODER`        | address of the page table of the encoder's text that it reads, or writes; 0: none            |
| `Q_ADAPTER`        | the number of its adapter (`lora.py`); 0: none                                               |
| `Q_ENCODED`        | tokens of the encoder's text: every token of the sequence sees all of them                   |

A window is no word of a token: it stands in the instruction, since layers differ in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .drawing import D_ROW, DRAW_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Q_ADAPTER",
    "Q_COUNT",
    "Q_ENCODED",
    "Q_ENCODER",
    "Q_FIRST",
    "Q_TABLES",
    "SEQUENCE_WORDS",
    "STEP_WORDS",
    "S_DRAWN",
    "S_DRAWS",
    "S_N_DRAWS",
    "S_N_LOGITS",
    "S_N_SEQUENCES",
    "S_RESULTS",
    "S_SEQUENCES",
    "S_SPLIT",
    "S_T",
    "S_TOKENS",
    "TOKEN_WORDS",
    "T_FIRST",
    "T_ID",
    "T_LAST",
    "T_POSITION",
    "T_ROW",
    "T_SEQUENCE",
    "T_SLOT",
    "T_TYPE",
    "Batch",
]

#: The step block: tokens, rows of logits, sequences, addresses of the words of both, and of the greedy id of each row.
S_T, S_N_LOGITS, S_N_SEQUENCES, S_TOKENS, S_SEQUENCES, S_RESULTS = range(6)
#: Then how many rows of logits are drawn from, the address of the words of each (`drawing.py`), and of the id by row.
S_N_DRAWS, S_DRAWS, S_DRAWN = range(6, 9)
#: Not 0: attention of the only token is three instructions (`cpu/kernels/attention_split.py`).
S_SPLIT = 9
STEP_WORDS = 16
T_ID, T_SEQUENCE, T_POSITION, T_SLOT, T_FIRST, T_LAST, T_TYPE, T_ROW = range(8)
TOKEN_WORDS = 8
Q_FIRST, Q_COUNT, Q_TABLES, Q_ENCODER, Q_ADAPTER, Q_ENCODED = range(6)
SEQUENCE_WORDS = 8


class Batch:
    """At most `chunk` tokens and `n_logits` rows of logits; everything is allocated here, once."""

    def __init__(self, chunk: int, n_logits: int, padding: int | None = None) -> None:
        """A batch that can hold so much; it is empty. `padding`: as in `Config`."""
        self.padding = padding
        self.words = np.zeros(STEP_WORDS, np.int64)
        self.tokens = np.zeros((chunk, TOKEN_WORDS), np.int64)
        self.sequences = np.zeros((chunk, SEQUENCE_WORDS), np.int64)
        self.results = np.full(n_logits, -1, np.int64)  # the greedy id of each row of logits
        self.words[S_TOKENS] = self.tokens.ctypes.data
        self.words[S_SEQUENCES] = self.sequences.ctypes.data
        self.words[S_RESULTS] = self.results.ctypes.data
        self.draws = np.zeros((n_logits, DRAW_WORDS), np.int64)
        self.drawn = np.full(n_logits, -1, np.int64)  # by row of logits; -1: none was drawn by the pass
        self.words[S_DRAWS], self.words[S_DRAWN] = self.draws.ctypes.data, self.drawn.ctypes.data
        self.n_draws = 0
        self.address = int(self.words.ctypes.data)
        self.n_tokens = self.n_logits = self.n_sequences = 0

    def clear(self) -> None:
        """Forget what was added."""
        self.n_tokens = self.n_logits = self.n_sequences = self.n_draws = 0
        self.words[:3] = self.words[S_N_DRAWS] = 0
        self.drawn[:] = -1

    def draw(self, row: int, words: NDArray[np.int64]) -> None:
        """Draw an id from a row of logits, as these words say, where the backend does that."""
        self.draws[self.n_draws] = words
        self.draws[self.n_draws, D_ROW] = row
        self.n_draws += 1
        self.words[S_N_DRAWS] = self.n_draws

    @property
    def start(self) -> int:
        """Slot of the first token."""
        return int(self.tokens[0, T_SLOT])

    def add_whole(  # noqa: PLR0913 - what a text's part of a step is
        self,
        ids: Sequence[int],
        types: Sequence[int] | None,
        slot: int,
        tables: int,
        encoder: int = 0,
        *,
        causal: bool = False,
        adapter: int = 0,
    ) -> None:
        """Append a text whose tokens see all of it; its keys lie at `slot` and after it, a multiple of a block.

        Positions count from 0, so that its bits are those of the text alone. All rows are kept, in order. The caller
        has checked ids, types (None: all 0) and room. `encoder`: address of the table of pages that a decoder reads.
        `causal`: its tokens see none after them. `adapter`: its number.
        """
        n, at, q = len(ids), self.n_tokens, self.n_sequences
        part, positions = self.tokens[at : at + n], np.arange(n)
        part[:, T_ID], part[:, T_SEQUENCE], part[:, T_POSITION] = ids, q, positions
        slots = slot + positions
        part[:, T_SLOT], part[:, T_FIRST], part[:, T_LAST] = slots, slot, slots if causal else slot + n - 1
        part[:, T_TYPE] = 0 if types is None else types
        part[:, T_ROW] = -1
        self._count(at, ids, 0)
        self.sequences[q, : Q_ENCODED + 1] = at, n, tables, encoder, adapter, n
        self.n_tokens, self.n_sequences = at + n, q + 1
        self.words[:3] = self.n_tokens, 0, self.n_sequences

    def ask(self, rows: Sequence[int]) -> None:
        """For the logits of these tokens of the batch, in this order, and of no other."""
        self.tokens[: self.n_tokens, T_ROW] = -1
        self.tokens[rows, T_ROW] = np.arange(len(rows))
        self.n_logits = len(rows)
        self.words[:3] = self.n_tokens, self.n_logits, self.n_sequences

    def add(  # noqa: PLR0913, PLR0917 - what a sequence's part of a step is
        self,
        ids: Sequence[int] | NDArray[np.int64],
        start: int,
        tables: int,
        n_logits: int,
        encoder: int = 0,
        encoded: int = 0,
        shift: int = 0,
        adapter: int = 0,
    ) -> None:
        """Append tokens of one sequence at `start`, `start` + 1, ...; its last `n_logits` get rows of logits.

        Each sees its sequence's slots up to its own. `tables` is the address of its page tables, `encoder` that of the
        encoder's text, of `encoded` tokens, that it reads; `shift` is added to its positions; `adapter`: its number.
        The caller has checked ids, positions and room.
        """
        n, at, q, row = len(ids), self.n_tokens, self.n_sequences, self.n_logits
        if n == 1:
            row_of = row if n_logits else -1
            self.tokens[at] = ids[0], q, start + shift, start, 0, start, 0, row_of
        else:
            part = self.tokens[at : at + n]
            slots = np.arange(start, start + n)
            part[:, T_ID], part[:, T_SEQUENCE] = ids, q
            part[:, T_POSITION] = slots + shift
            part[:, T_SLOT] = part[:, T_LAST] = slots
            part[:, T_FIRST] = part[:, T_TYPE] = 0
            part[:, T_ROW] = -1
            part[n - n_logits :, T_ROW] = np.arange(row, row + n_logits)
        self._count(at, ids, start + shift)
        self.sequences[q, : Q_ENCODED + 1] = at, n, tables, encoder, adapter, encoded
        self.n_tokens, self.n_sequences, self.n_logits = at + n, q + 1, row + n_logits
        self.words[:3] = self.n_tokens, self.n_logits, self.n_sequences

    def _count(self, at: int, ids: Sequence[int] | NDArray[np.int64], first: int) -> None:
        """Positions of a model whose padding tokens have none: theirs is 0, and those of others count from 1."""
        if self.padding is not None:
            counts = np.asarray(ids) != self.padding
            self.tokens[at : at + len(ids), T_POSITION] = (np.cumsum(counts) + first) * counts

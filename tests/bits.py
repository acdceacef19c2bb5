"""What models of every kind compute, as digests: run in a process of its own to see it on another CPU.

`python bits.py FOLDER CASES`, CASES in JSON: [[directory in the folder, kind, options of load], ...]; a digest a line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
from miaotui.runtime.encoding import Whole, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Texts of one token, of a block of keys and one more, of a page and more, of a window and more.
LENGTHS = (1, 17, 5, 131, 33, 2, 70)


def ids(seed: int, n: int) -> list[int]:
    """Of a vocabulary of 53, without those that mean something."""
    return [int(i) for i in np.random.default_rng(seed).integers(4, 53, n)]


TEXTS = [ids(i, n) for i, n in enumerate(LENGTHS)]


def alone(model: miaotui.Model, kind: str) -> Iterator[bytes]:
    """What a model gives for each text, one after the other."""
    for i, text in enumerate(TEXTS):
        if kind != "decoder":
            yield model.hidden(text).tobytes()
        if kind == "both":
            yield model.logits(text, decoder_ids=TEXTS[i - 1]).tobytes()
        elif kind == "decoder":
            yield model.logits(text).tobytes()


def written(model: miaotui.Model, kind: str) -> Iterator[bytes]:
    """Answers: greedy, sampled, of beams; with their scores."""
    if kind == "encoder":
        return
    for how in ({}, {"temperature": 1.3, "seed": 7}, {"num_beams": 3, "num_return_sequences": 3}):
        out = model.generate(TEXTS[4], max_new_tokens=9, ignore_eos=True, **how)
        yield repr([(g.ids, g.score) for g in (out, *out.alternatives)]).encode()


def packed(model: miaotui.Model, kind: str) -> Iterator[bytes]:
    """As `alone`, in as few passes as can be."""
    session = model.session
    hidden = [r.tobytes() for r in encoded(session, map(Whole, TEXTS), np.copy)] if kind != "decoder" else []
    last = [r.tobytes() for r in session.turn(partial(together, session, kind))] if kind != "encoder" else []
    yield from hidden
    yield from last


def together(session: Any, kind: str) -> list[Any]:
    """Logits after the last id of each text, in passes of several; of an encoder-decoder each reads another text."""
    rows, waiting = [], list(range(len(TEXTS)))
    read = [TEXTS[i - 1] if kind == "both" else text for i, text in enumerate(TEXTS)]
    while waiting:
        size = max(n for n in range(1, len(waiting) + 1) if sum(len(read[i]) for i in waiting[:n]) <= session.chunk)
        tables = [session.admit(None) for _ in waiting[:size]]
        for table, i in zip(tables, waiting, strict=False):
            table.source = session.encoded(TEXTS[i]) if kind == "both" else None
        session.run_pass([(table, read[i], 0, 1) for table, i in zip(tables, waiting, strict=False)])
        rows += list(session.logits.copy())
        session.left.extend(tables)
        del waiting[:size]
    return rows


def digest(path: Path, kind: str, how: dict[str, Any]) -> str:
    """Of all that a model gives."""
    with miaotui.load(path, cache_tokens=128 * 16, **how) as model:
        parts = [*alone(model, kind), *written(model, kind)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


if __name__ == "__main__":
    for name, kind, how in json.loads(sys.argv[2]):
        print(digest(Path(sys.argv[1]) / name, kind, how))  # noqa: T201 - read by the test

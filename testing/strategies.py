"""What Hypothesis draws for tests of Transformer ops: sizes, hostile floats, problems of each op. Needs `[testing]`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import BackendError
from .checkpoints import DTYPES, TinyCheckpoint, families, tiny
from .malformed import ROWS, Malformed

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as npst
except ImportError as e:
    msg = "miaotui.testing.strategies needs Hypothesis: pip install 'miaotui[testing]'"
    raise BackendError(msg) from e

from .plans import prune_plans

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy
    from numpy.typing import NDArray

__all__ = [
    "SIZES",
    "AttentionProblem",
    "attention_problems",
    "configs",
    "floats",
    "malformed_checkpoints",
    "matrices",
    "prompts",
    "prune_plans",
    "ropes",
    "sizes",
    "tiny_checkpoints",
]

#: Where loops break: one, primes, and one around the widths of vectors and tiles.
SIZES = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97)

#: What texts break tokenizers and terminals with: combining marks, joiners, both directions, astral planes, controls.
TRAPS = (
    *("", " ", "\n\n", "\t", "\0", "\ufeff"),
    *("\u00e9", "e\u0301", "\ufb01", "\u017f", "\u0130", "\u00df", "\U0001d4b3"),
    *("\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e8\U0001f1f3", "\u65e5\u672c\u8a9e"),
    *(
        "\u05e9\u05dc\u05d5\u05dd",
        "\u202eabc",
        "\u200b",
        "\ud7ff",
        "\uffff",
        "x" * 300,
        "<s>",
        "</s>",
        "\u2581",
        "\u0120",
    ),
)


def sizes(most: int = 97) -> SearchStrategy[int]:
    """One of `SIZES`, at most `most`, which is at least 1."""
    return st.sampled_from([n for n in SIZES if n <= most])


def floats(most: float = 1e4) -> SearchStrategy[float]:
    """Finite float32 numbers up to `most`: many are hostile, zeros of both signs, denormals, neighbours of one."""
    most = float(np.nextafter(np.float32(most), np.float32(0)) if np.float32(most) > most else np.float32(most))
    most = min(most, float(np.finfo(np.float32).max))
    edge = [0.0, -0.0, 2.0**-149, -(2.0**-127), 2.0**-126, 1.0, 1 + 2.0**-23, 1 - 2.0**-24, -1.0, most, -most]
    return st.one_of(st.sampled_from([x for x in edge if abs(x) <= most]), st.floats(-most, most, width=32))


@st.composite
def matrices(draw: DrawFn, rows: int, columns: int, most: float = 10.0) -> NDArray[np.float32]:
    """Float32 [rows, columns]: random, of one size or of many, or of `floats`."""
    kind = draw(st.sampled_from(["usual", "wide", "hostile"]))
    if kind == "hostile" and rows * columns <= 256:  # noqa: PLR2004 - each is a choice of Hypothesis
        drawn: NDArray[np.float32] = draw(
            npst.arrays(np.float32, (rows, columns), elements=floats(most)),
        )
        return drawn
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = random.standard_normal((rows, columns))
    x = x * np.exp2(random.uniform(-12, 3, (rows, 1))) if kind == "wide" else x
    return np.clip(x, -most, most).astype(np.float32)


@dataclass(frozen=True)
class AttentionProblem:
    """`q` [T, heads, d], `k` and `v` [S, kv_heads, d], and keywords of `reference.attention`."""

    q: NDArray[np.float32]
    k: NDArray[np.float32]
    v: NDArray[np.float32]
    how: dict[str, Any]


@st.composite
def attention_problems(draw: DrawFn, *, plain: bool = False) -> AttentionProblem:
    """Grouped heads, a past, windows, caps and biases; `plain`: only causal or not, and a scale."""
    t, past, kv, d = draw(sizes(17)), draw(st.sampled_from([0, 1, 7, 16])), draw(st.integers(1, 3)), draw(sizes(17))
    heads = kv * draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    loud = draw(st.sampled_from([1.0, 30.0]))
    q, k, v = (
        (random.standard_normal(shape) * size).astype(np.float32)
        for shape, size in (((t, heads, d), loud), ((past + t, kv, d), 1.0), ((past + t, kv, d), 1.0))
    )
    how: dict[str, Any] = {"causal": draw(st.booleans()), "scale": draw(st.sampled_from([None, 1.0, 0.125]))}
    if not plain:
        how["window"] = draw(st.sampled_from([None, 1, 2, past + t]))
        how["soft_cap"] = draw(st.sampled_from([None, 50.0]))
        if draw(st.booleans()):
            biases = random.standard_normal((heads, t, past + t)) - draw(st.sampled_from([0.0, 3e4]))
            how["bias"] = biases.astype(np.float32)  # beyond what some engines take for minus infinity
    return AttentionProblem(q, k, v, how)


@st.composite
def ropes(draw: DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64], dict[str, Any]]:
    """`x` [T, heads, d], positions [T], and keywords of `reference.rope`."""
    t, heads, half = draw(sizes(17)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 8, 16, 32]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = draw(st.sampled_from([0, 1, 1000, 32_000]))
    how: dict[str, Any] = {"theta": draw(st.sampled_from([1e4, 5e5, 1e6])), "interleaved": draw(st.booleans())}
    how["d_rotary"] = draw(st.one_of(st.none(), st.integers(1, half).map(lambda n: 2 * n)))
    return random.standard_normal((t, heads, 2 * half)).astype(np.float32), np.arange(start, start + t), how


@st.composite
def tiny_checkpoints(draw: DrawFn, family: str | None = None) -> TinyCheckpoint:
    """Of a family, or of any: one to three layers, heads that share keys or not, odd widths, every float dtype."""
    name = draw(st.sampled_from(families())) if family is None else family
    n_kv_heads = draw(st.integers(1, 2))
    return tiny(
        name,
        dtype=draw(st.sampled_from(DTYPES)),
        seed=draw(st.integers(0, 2**32 - 1)),
        n_layers=draw(st.integers(1, 3)),
        n_kv_heads=n_kv_heads,
        n_heads=n_kv_heads * draw(st.integers(1, 3)),
        d_head=draw(st.sampled_from([8, 16])),
        d_ff=draw(sizes(33)),
        n_vocab=draw(st.integers(40, 97)),
    )


def configs(family: str | None = None) -> SearchStrategy[dict[str, Any]]:
    """config.json of such."""
    return tiny_checkpoints(family).map(lambda made: made.config)


def malformed_checkpoints() -> SearchStrategy[Malformed]:
    """Directories with one thing wrong, which `write(directory)` makes: `name` says what, `error` what must come."""
    return st.sampled_from([one for group in ROWS.values() for one in group])


def prompts() -> SearchStrategy[str]:
    """Texts, of which many are traps."""
    return st.lists(st.one_of(st.sampled_from(TRAPS), st.text(max_size=8)), max_size=5).map("".join)

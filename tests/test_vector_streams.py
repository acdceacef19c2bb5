"""Streams of vectors and scores by models whose positions are hard: yarn, LongRoPE, windows on one side and both.

Whatever a text's company, threads, passes and interruptions: the bits that it gets alone.
"""

from __future__ import annotations

import ctypes
import pickle
import platform
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from test_embedders import SIZES, ending
from test_encoders import SETTINGS, made, sentence_files, word_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from miaotui import Model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT = 64
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1000.0, "partial_rotary_factor": 1.0,
    "short_factor": [1.0, 1.25, 2.0, 2.5], "long_factor": [1.5, 4.0, 9.0, 11.0],
}  # fmt: skip
DECODER: dict[str, Any] = SIZES | {"max_position_embeddings": CONTEXT, "eos_token_id": None, "pad_token_id": None}
ENCODER: dict[str, Any] = {name: SIZES[name] for name in SIZES if name not in {"num_key_value_heads", "head_dim"}}
ENCODER |= {"max_position_embeddings": CONTEXT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
ENCODER |= {"cls_token_id": 2, "sep_token_id": 3}
LOCAL = {"local_attention": 10, "global_attn_every_n_layers": 2}
WINDOWS = {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}


def config(kind: str) -> Any:
    """A model of this kind: ["encoder" or how a decoder's tokens are pooled, its config]."""
    t = transformers
    made_of: dict[str, Callable[[], Any]] = {
        "yarn": lambda: t.Qwen3Config(**DECODER, rope_parameters=YARN),
        "longrope": lambda: t.Phi3Config(**DECODER, original_max_position_embeddings=16, rope_parameters=dict(LONG)),
        "window": lambda: t.MistralConfig(**DECODER, sliding_window=7),
        "layers of windows": lambda: t.Gemma3TextConfig(**DECODER, **WINDOWS, query_pre_attn_scalar=8),
        "both ways": lambda: t.Gemma3TextConfig(
            **DECODER, **WINDOWS, query_pre_attn_scalar=8, use_bidirectional_attention=True
        ),
        "windows of an encoder": lambda: t.ModernBertConfig(**ENCODER, **LOCAL, num_labels=3),
        "yarn of an encoder": lambda: t.EuroBertConfig(**ENCODER, rope_parameters=YARN, num_labels=1),
    }
    return made_of[kind]()


ENCODERS = ("windows of an encoder", "yarn of an encoder")
#: Of a decoder's tokens.
KINDS = ("yarn", "longrope", "window", "layers of windows", "both ways")
#: In ring `fast`.
FAST = ("longrope", "windows of an encoder")


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A directory of each kind and pooling, made when it is first asked for."""
    there: dict[tuple[str, str], Path] = {}

    def of(kind: str, mode: str) -> Path:
        if (kind, mode) not in there:
            directory = there[kind, mode] = tmp_path_factory.mktemp("m")
            made(config(kind), directory, kind="SequenceClassification" if mode == "pairs" else "")
            (word_pieces if kind in ENCODERS else ending)(directory)
            if mode != "pairs":
                sentence_files(directory, word_embedding_dimension=32, **{f"pooling_mode_{mode}": True})
        return there[kind, mode]

    return of


def text_of(n: int, seed: int) -> str:
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 300, n))


LENGTHS = st.lists(st.sampled_from([0, 1, 2, 6, 7, 8, 9, 13, 14, 15, 16, 17, 30, 33, 62]), min_size=1, max_size=30)
INTERRUPTS = st.lists(st.sampled_from(["close", "drop", "raise", "interleave", "bad"]), max_size=3)


class StoppedError(Exception):
    """What a source of texts raises."""


def disturbed(call: Callable[[Any], Iterator[Any]], texts: list[Any], bad: Any, how: str, at: int) -> None:
    """Begin a stream, and leave it as `how` says after `at` of its results."""

    def source() -> Iterator[Any]:
        for i, text in enumerate(texts):
            if i == at and how == "raise":
                raise StoppedError
            yield bad if i == at and how == "bad" else text

    stream = call(source())
    if how in {"raise", "bad"}:
        with pytest.raises(StoppedError if how == "raise" else InputError):
            list(stream)
        return
    list(islice(stream, at))
    if how == "close":
        stream.close()  # type: ignore[attr-defined]
        assert next(stream, None) is None
    elif how == "interleave":
        other = call(iter(texts[::-1]))
        for a, b in zip(stream, other, strict=False):
            assert np.isfinite(a).all()
            assert np.isfinite(b).all()


def check(
    open_: Callable[..., Model], call: Callable[[Model], Callable[[Any], Any]], texts: list[Any], bad: Any, data: Any
) -> None:
    """Alone on one thread; then together, by list and by iterator, in other passes, after what `INTERRUPTS` did."""
    with open_(threads=1) as one:
        alone = [np.asarray(call(one)([text]))[0].tobytes() for text in texts]
    threads, chunk = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([None, 64, 70, 130]))
    with open_(threads=threads, prefill_chunk=chunk) as many:
        of = call(many)
        for how in data.draw(INTERRUPTS):
            disturbed(of, texts, bad, how, data.draw(st.integers(0, len(texts) - 1)))
        assert [np.asarray(v).tobytes() for v in of(iter(texts))] == alone
        assert [row.tobytes() for row in of(texts)] == alone
        order = data.draw(st.permutations(range(len(texts))))
        assert [np.asarray(v).tobytes() for v in of(iter([texts[i] for i in order]))] == [alone[i] for i in order]


CASES = [(kind, mode) for kind in KINDS for mode in ("lasttoken", "mean_tokens")]
CASES = [(k, m) for k, m in CASES if k != "both ways" or m == "mean_tokens"] + [(k, "mean_tokens") for k in ENCODERS]


@pytest.mark.parametrize(
    ("kind", "mode"), [c if c[0] in FAST else pytest.param(*c, marks=pytest.mark.ci) for c in CASES], ids=str
)
@settings(SETTINGS, max_examples=6)
@given(lengths=LENGTHS, data=st.data())
def test_vectors_have_the_bits_of_each_text_alone(
    directories: Callable[[str, str], Path], kind: str, mode: str, lengths: list[int], data: st.DataObject
) -> None:
    directory = directories(kind, mode)
    texts = [text_of(n, i) for i, n in enumerate(lengths)]
    check(lambda **how: miaotui.load(directory, **how), lambda model: model.encode, texts, 3, data)


@pytest.mark.ci  # 8 s
@pytest.mark.parametrize("kind", ENCODERS)
@settings(SETTINGS, max_examples=6)
@given(lengths=LENGTHS, data=st.data())
def test_scores_have_the_bits_of_each_pair_alone(
    directories: Callable[[str, str], Path], kind: str, lengths: list[int], data: st.DataObject
) -> None:
    directory = directories(kind, "pairs")
    pairs = [(text_of(n // 2, i), text_of(max(0, (n - n // 2) - 3), i + 99)) for i, n in enumerate(lengths)]
    too_long = ("w1 " * 40, "w2 " * 40)
    check(lambda **how: miaotui.load(directory, **how), lambda model: model.predict, pairs, too_long, data)


@pytest.mark.ci  # 5 s
@pytest.mark.parametrize("kind", [*KINDS, *ENCODERS])
def test_vectors_are_those_of_transformers(directories: Callable[[str, str], Path], kind: str) -> None:
    """The mean of what transformers' modules compute of the same tokens, on both sides of the original context."""
    directory = directories(kind, "mean_tokens")
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    with miaotui.load(directory) as ours:
        for n in (1, 8, 14, 17, 33, 60):
            ids = ours.tokenizer.framed(text_of(n, n))[0]
            with torch.no_grad():
                wanted = model(torch.tensor([ids]))[0][0].mean(0).numpy()
            got = ours.encode(text_of(n, n), normalize=False)
            assert np.abs(got - wanted).max() < 2e-4 * max(1.0, float(np.abs(wanted).max()))


def test_a_stream_of_scores_is_as_one_of_vectors(directories: Callable[[str, str], Path]) -> None:
    """It can be closed, says who reads it twice, and takes no bit from the caller's rounding mode."""
    pairs = [(text_of(n, n), text_of(5, n + 1)) for n in range(1, 30)]
    with miaotui.load(directories("yarn of an encoder", "pairs")) as model:
        alone = np.asarray(model.predict(pairs))
        with model.predict(iter(pairs)) as stream:  # type: ignore[attr-defined]
            assert next(stream).tobytes() == alone[:1].tobytes()
            with pytest.raises(InputError, match="a stream cannot be copied or pickled"):
                pickle.dumps(stream)
        assert next(stream, None) is None
        libm = ctypes.CDLL("libm.so.6") if sys.platform == "linux" else None
        if libm is None or platform.machine() != "x86_64":
            return
        libm.fesetround(0x800)  # up
        try:
            got = np.concatenate(list(model.predict(iter(pairs))))
        finally:
            libm.fesetround(0)
        assert got.tobytes() == alone.tobytes()

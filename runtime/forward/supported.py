"""What the records can say and nothing computes yet: refused by name when a model is recorded, never left out.

A row goes when its kernel comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import BackendError
from ..kvcache import PAGE
from ..ops import ACT_BACKENDS, ACTS, OPS
from ..spec import Attention, Slopes
from .relative import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from ..program import Program
    from ..spec import Config, FeedForward, Linear, Norm, Stack, StackWeights, Sublayer, Weights

__all__ = ["bounded", "check_backend", "check_supported", "head_of"]


def check_supported(config: Config, w: Weights) -> None:
    """Pass a decoder, or an encoder, that can be recorded. Errors: `BackendError`, naming what cannot, and where."""
    lacking = next(_lacking(config, w), None)
    if lacking is not None:
        msg = f"{config.family}: no kernel computes {lacking} yet; this model cannot run"
        raise BackendError(msg)


def check_backend(program: Program, family: str, backend: Literal["cpu", "cuda"]) -> None:
    """Pass a program that a backend has every op of. Errors: `BackendError`, naming the first that it lacks."""
    if program.turning and backend != "cpu":
        msg = (
            f"device={backend!r}: this {family} model rotates texts of more than {program.turning} tokens by other "
            f"factors (longrope), which {backend} lacks; load with max_context={program.turning}, or use device='cpu'"
        )
        raise BackendError(msg)
    planes = next((i.variant for i in program.code if i.variant in OPS[i.op].cpu_variants), None)
    if planes is not None and backend != "cpu":
        msg = (
            f"device={backend!r}: precision='exact' rounds the inputs of {planes.partition('_')[0]} matrices to two "
            f"planes, which {backend} lacks; leave precision out, or use device='cpu'"
        )
        raise BackendError(msg)
    for i in program.code:
        act = i.values.get("act")
        kind = ACTS[act - 1] if isinstance(act, int) and act else ""
        lacks_op = backend not in OPS[i.op].backends
        if lacks_op or backend not in ACT_BACKENDS.get(kind, (backend,)):
            what = f"op {i.op!r}" if lacks_op else f"activation {kind!r}"
            msg = f"device={backend!r}: this {family} model needs the {what}, which {backend} lacks; use device='cpu'"
            raise BackendError(msg)


def bounded(config: Config, n_context: int) -> str:
    """Why no text of this model may outgrow `n_context` (`overflow="window"`); "" where one may.

    A key keeps its rotation while the text goes on, so a distance must turn a pair by the same angle everywhere.
    """
    if config.decoder is None or config.encoder is not None:
        return f"{config.family} is {config.kind}; only texts of decoders may outgrow the context"
    if config.positions is not None or config.decoder.sinusoids is not None:
        return f"{config.family} adds a row for each position, and has none beyond its context"
    if kind := next((rope.kind for rope in config.ropes if rope.kind in {"dynamic", "longrope"}), None):
        return f"{config.family} rotates by frequencies that depend on a text's length ({kind})"
    layers = (s for layer in config.decoder.layers for s in layer if isinstance(s, Attention))
    if any(s.norm_rotated and s.rope is not None for s in layers):
        return f"{config.family} normalises its keys after their rotation"
    if n_context < 2 * PAGE:
        return f"the context of {n_context} is too short, expected {2 * PAGE}; load with a larger max_context"
    return ""


def head_of(config: Config, w: Weights) -> Linear:
    """The last product of a model that can be recorded, and has one. Errors: `BackendError`."""
    check_supported(config, w)
    if w.head is None:
        msg = f"{config.family}: no kernel computes a head of which there are no weights"
        raise BackendError(msg)
    return w.head


def _lacking(config: Config, w: Weights) -> Iterator[str]:
    """Everything that is asked for and not there."""
    if config.seq2seq and w.encoder is None:
        yield "an encoder of which there are no weights"
    if config.decoder is not None and config.lm_head and w.head is None:
        yield "a decoder without a head"
    yield from _of_stack(config, config.stack, w.stack)


def _of_stack(config: Config, stack: Stack, w: StackWeights) -> Iterator[str]:
    if any(rope.kind == "longrope" for rope in config.ropes):
        yield from _of_longrope(config)
    if len(stack.biases) != len(w.biases):
        yield "tables of relative positions that the config does not know"
    if (stack.relative is None) != (w.relative is None):
        yield "a table of distances that is not there, or that the config does not know"
    yield from _of_convolution(config, stack, w)
    if stack.norm == "rms" and any(n is not None and n.b is not None for n in _norms(w)):
        yield "RMSNorm with a bias"
    for i, (sizes, weights) in enumerate(zip(stack.layers, w.layers, strict=True)):
        for cross in (False, True):
            if sum(isinstance(s, Attention) and s.cross == cross for s in sizes) > 1:
                yield f"two attentions to {'an encoder' if cross else 'a text itself'} in layer {i}"
        for s, sublayer in zip(sizes, weights, strict=True):
            lacking = (
                _of_attention(config, w, s, sublayer) if isinstance(s, Attention) else _of_feed_forward(s, sublayer)
            )
            for what in lacking:
                yield f"{what} (layer {i})"


def _of_longrope(config: Config) -> Iterator[str]:
    if len(config.ropes) > 1:
        yield "a rotation by the length of a text (longrope) next to another"
    if config.decoder is None:
        yield "a rotation by the length of a text (longrope) for texts that come whole"


def _of_convolution(config: Config, stack: Stack, w: StackWeights) -> Iterator[str]:
    if (stack.convolution is None) != (w.convolution is None):
        yield "a convolution without weights, or that the config does not know"
    if stack.convolution is None:
        return
    if config.decoder is not None:
        yield "a convolution over texts that come in parts"
    if stack.convolution.taps % 2 == 0:
        yield f"a convolution of {stack.convolution.taps} taps, of which none is in the middle,"


def _norms(w: StackWeights) -> Iterator[Norm | None]:
    """Every place of a norm."""
    yield from (w.norm, w.embed_norm, w.relative_norm, w.convolution_norm)
    for part in (sublayer for layer in w.layers for sublayer in layer):
        yield from (part.norm_in, part.norm_out, part.norm_sum, part.norm_q, part.norm_k)


def _of_attention(config: Config, tables: StackWeights, s: Attention, w: Sublayer) -> Iterator[str]:
    stack = config.stack
    if s.cross:
        yield from _of_cross(config, s)
    elif s.causal != stack.causal or (config.decoder is not None and not s.causal):
        yield "attention to later tokens in " + ("a decoder" if config.decoder else "some layers alone")
    if _lacks_table(stack, tables, s, w):
        yield "a bias by relative position without its table"
    if s.relative:
        yield from _of_relative(stack, s)
        pairs = (SOURCES[term] for term in s.relative if term in SOURCES)
        met = [own if own in w.linear else shared for own, shared in pairs]  # a product of its own leaves the text's be
        if adapted := next((n for n in met if n in w.linear and w.linear[n].adapters), None):
            yield f"an adapter of {adapted}, with which rows of a table of distances are multiplied too,"
    if stack.norm == "rms" and s.norm_heads and s.n_heads > 1:
        yield "RMSNorm of each head with gains of its own"


def _of_relative(stack: Stack, s: Attention) -> Iterator[str]:
    terms = f"attention's terms by relative position, {' and '.join(s.relative)}"
    if stack.relative is None:
        yield f"{terms}, without their table"
    if s.causal or s.cross:
        yield f"{terms}, of texts that come in parts"
    if s.window is not None or s.bias is not None or s.soft_cap is not None:
        yield f"{terms}, with windows, biases or caps"


def _lacks_table(stack: Stack, w: StackWeights, s: Attention, own: Sublayer) -> bool:
    """Whether a bias that a layer names is not there, or its table neither once nor where it belongs."""
    if s.bias is None:
        return own.bias is not None
    if s.bias >= min(len(stack.biases), len(w.biases)):
        return True
    tables = (w.biases[s.bias] is not None) + (own.bias is not None)
    return tables != (0 if isinstance(stack.biases[s.bias], Slopes) else 1)


def _of_cross(config: Config, s: Attention) -> Iterator[str]:
    if not config.seq2seq:
        yield "attention to an encoder that is not there"
    if s.window is not None or s.rope is not None or s.bias is not None:
        yield "attention to an encoder by position"


def _of_feed_forward(s: FeedForward, w: Sublayer) -> Iterator[str]:
    if (s.activation is None) != bool(w.numbers) or (w.numbers and s.gated):
        yield "an activation with numbers of its own, gated or without them"
    if s.experts is None:
        return
    if not 0 < s.experts.per_token <= s.experts.n == len(w.experts):
        yield f"{s.experts.per_token} of {s.experts.n} experts, of which {len(w.experts)} have weights,"
    every = [linear for each in w.experts for linear in each.values()]
    if any(linear.b is not None or linear.adapters for linear in every):
        yield "experts with biases or adapters"

"""What a model answers in numbers: logits, hidden states, a text's vector, the score of a pair."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .errors import InputError, is_iterable
from .loaded import Loaded
from .loader.text.tokenizer import checked_ids
from .once import once
from .runtime.encoding import Whole, encoded, judged_ids, scored
from .runtime.memory import float_rows, memory_named
from .runtime.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .encode import Pairs, Vectors
    from .loader.sentence import Sentence
    from .tracing import Trace

__all__ = ["Arrays"]


class Arrays(Loaded):
    """Of `Model`: the calls that return arrays."""

    @memory_named("logits")
    def logits(
        self, ids: object, *, token_types: object = None, decoder_ids: object = None, adapter: str | None = None
    ) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, n_vocab]. Errors: `InputError`.

        Of an encoder, what its head gives: [T, n_vocab] (masked tokens), [T, labels] (token classes), [T, 2] (start and
        end of an answer), [labels] (classes of the text); `Model.config` has `head` and `labels`. `token_types`: as in
        `hidden`. Of an encoder-decoder, whose encoder reads `ids`: [U, n_vocab] of its decoder's [U] `decoder_ids`.
        `adapter`: which one of `load(adapters=...)` reads the text; None: the model alone.
        """
        number = self._session.adapters.number(adapter, "logits")
        if self.config.seq2seq and self.config.writes:
            self._no_types(token_types)
            source = self._source(ids, "ids")
            return self._rows(self._decoder_ids(decoder_ids), "logits", self.config.n_vocab, source, number)
        if decoder_ids is not None:
            self._refuse_decoder_ids()
        if self.config.head is not None or self.config.decoder is None:
            return next(scored(self._session, self.config, [self._whole(ids, token_types, number)]))
        self._no_types(token_types)
        self._check_kind("logits", encoder=False)
        return self._rows(ids, "logits", self.config.n_vocab, adapter=number)

    @memory_named("trace")
    def trace(
        self, ids: object, *, token_types: object = None, decoder_ids: object = None, kernels: bool = False
    ) -> Trace:
        """[T] ids -> every intermediate in float64, by the names of the model's modules (docs/trace.md).

        Computed by the reference in NumPy, with nothing rounded but the weights as they are here: a definition, and
        slow. Arguments as those of `logits`. `kernels`: what the CPU's kernels compute instead, in float32 with this
        model's `precision` and `kv_cache`, of a decoder: names of what one instruction computes. Errors: `InputError`.
        """
        from .tracing import trace, trace_of_kernels  # noqa: PLC0415 - few need it

        self._session.check_open()
        config = self.config
        after: list[int] | None = None
        if config.seq2seq and config.head is None:
            after = self._decoder_ids(decoder_ids)
        elif decoder_ids is not None:
            self._refuse_decoder_ids()
        types = None if token_types is None else checked_ids(token_types)
        if config.decoder is not None:
            self._no_types(token_types)
        read = self._source(ids, "ids") if config.seq2seq else self._ids(ids)
        if types is not None and len(types) != len(read):
            msg = f"token_types: {len(types)} of {len(read)} tokens; expected one for each"
            raise InputError(msg)
        if config.seq2seq and config.head is not None:
            after = judged_ids(config, config.head, read, "the text")
        weights = self._session.weights
        if kernels:
            if not self._session.backend.paged:
                msg = f"kernels: this model is on {self._session.backend.name}; load it with device='cpu'"
                raise InputError(msg)
            return trace_of_kernels(config, weights, self.receipt, read, self._session.program, self.threads)
        return trace(config, weights, self.receipt, read, decoder_ids=after, types=types)

    @memory_named("trace")
    def layer_ids(self, trace: Trace) -> dict[str, list[int]]:
        """Layer -> the likeliest id after each token of a trace, if that layer were the last (the "logit lens").

        -1 where one of the logits is NaN. Errors: `InputError` for a model that is no decoder with a head for tokens,
        and for a trace that is not this model's.
        """
        from .runtime.traced import first_ids, layer_of  # noqa: PLC0415 - few need it

        self._session.check_open()
        config, weights = self.config, self._session.weights
        if config.decoder is None or config.seq2seq or not config.writes:
            msg = f"layer_ids: {config.family} is {config.kind}; expected a decoder with a head for tokens"
            raise InputError(msg)
        if not isinstance(trace, Mapping):
            msg = f"trace: {type(trace).__name__} found; expected what trace() returns"
            raise InputError(msg)
        layers = dict.fromkeys(layer for name in trace if (layer := layer_of(name)) in trace)
        for layer in layers:
            if (shape := trace[str(layer)].shape)[1:] != (config.d_model,):
                msg = f"trace: {layer} has shape {shape}; expected [T, {config.d_model}], as this model's"
                raise InputError(msg)
        return {str(layer): first_ids(config, weights, trace[str(layer)]).tolist() for layer in layers}

    def exact_logits(
        self, ids: object, *, token_types: object = None, decoder_ids: object = None
    ) -> NDArray[np.float64]:
        """As `logits`, in float64 (`trace`): what those would be if nothing were rounded but the weights.

        Errors: `InputError`, also for a model without a head.
        """
        return self.trace(ids, token_types=token_types, decoder_ids=decoder_ids).logits

    @memory_named("hidden")
    def hidden(self, ids: object, *, token_types: object = None, adapter: str | None = None) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, d_model]: what leaves the last layer, after the final norm. Errors: `InputError`.

        `token_types`: of each token, of an encoder that has such (BERT's segments; default: all are 0). Of an
        encoder-decoder, what its encoder gives; nothing of its decoder is read. `adapter`: as in `logits`.
        """
        number = self._session.adapters.number(adapter, "hidden")
        if self.config.seq2seq:
            self._no_types(token_types)
            return next(encoded(self._session, [Whole(self._source(ids, "ids"), adapter=number)], np.copy))
        if self.config.decoder is None:
            return next(encoded(self._session, [self._whole(ids, token_types, number)], np.copy))
        self._no_types(token_types)
        return self._rows(ids, "hidden", self.config.d_model, adapter=number)

    def _whole(self, ids: object, token_types: object, adapter: int) -> Whole:
        return Whole(self._ids(ids), None if token_types is None else checked_ids(token_types), adapter=adapter)

    def _no_types(self, token_types: object) -> None:
        if token_types is not None:
            msg = f"token_types: {self.config.family} has none"
            raise InputError(msg)

    @memory_named("last_logits")
    def last_logits(self, sequences: object, *, adapter: str | None = None) -> NDArray[np.float32]:
        """Several sequences of ids -> float32 [sequences, n_vocab]: the logits after the last token of each.

        One pass takes as many as fit it (`prefill_chunk` tokens, 32 sequences, the cache); the bits are those that
        each gets alone (on a GPU, with precision="exact"). `adapter`: as in `logits`. Errors: `InputError`.
        """
        self._check_kind("last_logits", encoder=False)
        if self.config.seq2seq:
            msg = f"last_logits: {self.config.family} is an encoder-decoder; use logits(ids, decoder_ids=...)"
            raise InputError(msg)
        if isinstance(sequences, str | bytes) or not is_iterable(sequences):
            kind = "an array of no dimensions" if isinstance(sequences, np.ndarray) else type(sequences).__name__
            msg = f"sequences: {kind} found, expected several sequences of token ids"
            raise InputError(msg)
        number = self._session.adapters.number(adapter, "last_logits")
        return self._session.last_logits([self._ids(s, f"sequence {i}") for i, s in enumerate(sequences)], number)

    @memory_named("encode")
    def encode(  # noqa: PLR0913 - keywords
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        adapter: str | None = None,
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """A vector for each text, pooled as the directory says (modules.json; without it, the mean of its tokens).

        Of a decoder too, where there is a modules.json (Qwen3-Embedding).

        One text gives float32 [d], several [texts, d], an iterator an iterator, which takes texts as passes need them.
        Texts are packed end to end, without padding; a text's bits do not depend on the others. Longer ones are cut to
        max_seq_length, else to the tokenizer's model_max_length, and to the model's positions. `prompt` stands before
        every text, or the directory's prompt `prompt_name`; `normalize`: to length 1 at the end, or not (default: as
        the directory says); `truncate_dim`: keep the first dimensions of what the directory's steps give, whose length
        is 1 again with `normalize=True`. `adapter`: as in `logits`.
        Errors: `InputError`, `TokenizerError`, `ConfigError`.
        """
        number = self._session.adapters.number(adapter, "encode")
        return self.vectors.of(texts, prompt=prompt, prompt_name=prompt_name, normalize=normalize,
                               truncate_dim=truncate_dim, adapter=number)  # fmt: skip

    @memory_named("predict")
    def predict(
        self, pairs: Iterable[tuple[str, str]], *, adapter: str | None = None
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """The score of each pair of texts, as `CrossEncoder.predict` of sentence-transformers: of classifiers.

        Several pairs give float32 [pairs], or [pairs, labels] where there is more than one; an iterator an iterator of
        [labels]. Logits go through the function that config.json names (`sentence_transformers.activation_fn`), or
        without one through the logistic function where there is one label. `adapter`: as in `logits`. Errors:
        `InputError`, also for a pair of more tokens than the model has positions; `TokenizerError`, `ConfigError`.
        """
        return self.pairs.of(pairs, adapter=self._session.adapters.number(adapter, "predict"))

    @once
    def pairs(self) -> Pairs:
        """What `predict` asks. Errors: `InputError` for a model that is no classifier of texts, `ConfigError`."""
        if self.config.head is None or self.config.head.kind != "classes":
            instead = "encode or hidden" if self.config.decoder is None else "logits, or last_logits for many prompts"
            msg = (
                f"predict: this {self.config.family} model is not a classifier of texts (architectures in config.json)"
            )
            msg += f"; use {instead}"
            raise InputError(msg)
        from .encode import Pairs  # noqa: PLC0415 - few need it
        from .loader.sentence import pair_activation  # noqa: PLC0415 - as above

        act = pair_activation(self._opened.raw, str(self._opened.directory / "config.json"), len(self.config.labels))
        return Pairs(self._session, self.tokenizer, self.config, act)

    @once
    def vectors(self) -> Vectors:
        """What `encode` asks, with what the directory says of it (`how`). Errors: as `encode`'s."""
        if self.config.decoder is None or self.config.seq2seq or not self._sentence.said:
            self._check_kind("encode", encoder=True)
        from .encode import Vectors  # noqa: PLC0415 - few need it

        return Vectors(self._session, self.tokenizer, self._sentence)

    @once
    def _sentence(self) -> Sentence:
        from .loader.sentence import read_sentence  # noqa: PLC0415 - few need it

        return read_sentence(self._opened.directory, self.config.d_model)

    def _refuse_decoder_ids(self) -> NoReturn:
        what = "a classifier, whose decoder reads ids" if self.config.seq2seq else "not an encoder-decoder"
        msg = f"decoder_ids: {self.config.family} is {what}; leave them out"
        raise InputError(msg)

    def _decoder_ids(self, ids: object) -> list[int]:
        decoding = self.config.decoding
        if ids is None and decoding is not None:
            msg = (
                f"decoder_ids: logits of {self.config.family} need what its decoder reads, from id {decoding.start} on"
            )
            raise InputError(msg)
        return self._ids(ids, "decoder_ids")

    def _rows(
        self, ids: object, what: str, width: int, source: Ids[int] | None = None, adapter: int = 0
    ) -> NDArray[np.float32]:
        wanted = self._ids(ids)
        out = float_rows(len(wanted), width, what)
        with Sequence(self._session, source=source, adapter=adapter) as sequence:
            sequence.table.expected = len(wanted)
            for at in range(0, len(wanted), self._session.n_logits):
                part = wanted[at : at + self._session.n_logits]
                sequence.append(part)
                out[at : at + len(part)] = sequence.turn(partial(self._computed, sequence, len(part), what))
        return out

    def _computed(self, sequence: Sequence, n: int, what: str) -> NDArray[np.float32]:
        sequence.advance(n)
        rows: NDArray[np.float32] = getattr(self._session, what).copy()
        return rows

"""`load` joins loader and runtime; `Model` is what users hold."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from .encode import Pairs, Vectors
from .errors import InputError, TokenizerError
from .load_options import LOAD_DEFAULTS, LoadKwargs, parse_options
from .loader.open import open_model
from .loader.pack import pack
from .loader.paths import is_there
from .loader.prune.receipt import hashed
from .loader.quantize import pack_rows
from .loader.sentence import pair_activation, read_sentence
from .loader.text.tokenizer import Tokenizer, checked_ids
from .loader.text.vocab_fallback import make_replacement
from .loader.text.vocabulary import KeptTokenizer, kept_fallback, kept_ids
from .once import once
from .prepare import prepare
from .runtime.encoding import Whole, encoded, scored
from .runtime.floats import usual_floats
from .runtime.generate import Generation, Token, check_ids
from .runtime.memory import float_rows, memory_named, refused
from .runtime.parameters import DEFAULT_NEW_TOKENS, GenerateKwargs, spelled_out
from .runtime.rules import Rules
from .runtime.searching import answers
from .runtime.sequence import Sequence, Text
from .runtime.session import Session
from .runtime.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from collections.abc import Sequence as Ids
    from pathlib import Path
    from typing import Unpack

    from numpy.typing import NDArray

    from .loader.load_plan import LoadPlan
    from .loader.prune.cut import Cut
    from .loader.prune.receipt import Receipt
    from .loader.quantize import PackRows
    from .loader.sentence import Sentence
    from .prepare import Prepared
    from .runtime.backend import Backend
    from .runtime.program import Program

    Prompt = str | Ids[int] | NDArray[np.integer[Any]]

__all__ = ["Model", "load", "quantizer"]

#: What a decoder has instead of an encoder's calls.
DECODERS_USE = "generate (or encode, of a directory with the modules.json of sentence-transformers)"


#: What begins an encoder-decoder's answer, in errors.
START = "decoder_start_token_id"


@spelled_out(LoadKwargs, LOAD_DEFAULTS)
@usual_floats()
@memory_named("load")
def load(path: str | Path, **options: Unpack[LoadKwargs]) -> Model:
    """Open a Hugging Face directory or hub name as a `Model`.

    `device`: "cpu", or "cuda" for an NVIDIA GPU (the cuda extra), whose memory then holds the weights and the arena.
    `threads`: default, the cores this process may use. `max_context`: positions to reserve (default: the model's, at
    most 2048). `memory_limit`: bytes, or a text such as "2GiB", for everything that is allocated (resident weights,
    arena, KV cache, constants; mapped files are not counted; with a GPU, for its memory and the host's each). A model
    that needs more than this, or more than the GPU has free, is a `MemoryLimitError` before any tensor is read.
    `prefill_chunk`: tokens per pass (default: 128; with a GPU 1024).
    `revision`: branch, tag or commit of a hub name (default: its main branch). `cache_tokens`: tokens that the KV cache
    holds for all open texts together (default: one text of `max_context`; of an encoder-decoder four beams of 256 too,
    and as many tokens of texts that its encoder has read); when it is full, an idle text loses its
    part, and is computed again when it goes on.
    `quantize`: "int8" (8.5 bits a weight), "int4" (4.5) or "int4a" (5: asymmetric) for every matrix, or by role
    ("int4,embed=int8"); done while reading, a few rows at a time. `kv_cache`: "f32", "bf16" (half the memory) or "int8"
    (a quarter). `precision`: "fast" rounds the input of BF16 matrices to BF16 where the CPU can multiply such pairs:
    nearly twice as fast for long prompts, but the bits then differ between kinds of CPU. On a GPU long prompts go to
    the tensor cores: attention rounds to BF16 too, the input of F16 matrices to F16, and F32 matrices with their input
    to TF32.
    `prune`: what to keep, as a `PrunePlan`, a plan's file (docs/plans.md), or short forms such as
    "keep-layers=0-2; ffn=0.75". What is cut away is never read, and `Model.receipt` says what was read. A share of the
    neurons, or of the width, reads the matrices that rank them, and "sparsity=stored" those whose zeros it counts,
    after a first check that everything else fits the memory limit.
    Errors: `CheckpointError`, `ConfigError`, `HubError`, `InputError`, `PlanError`, `MemoryLimitError`, `BackendError`.
    """
    began = time.perf_counter()
    request, revision = parse_options(options)
    free = _free_bytes() if request.gpu else None
    opened = open_model(path, revision=revision)
    backend: Backend | None = None
    prepared: Prepared | None = None
    try:
        prepared = prepare(opened, request, free=free)
        plan = prepared.plan
        weights = pack(plan, opened.checkpoint, threads=request.n_threads, rows=quantizer(plan))
        backend = _backend(prepared)
        session = Session(prepared.program, weights, backend)
    except MemoryError as e:
        opened.close()
        needed = prepared.memory["allocated"] if prepared is not None else 0
        raise refused(needed, f"{opened.directory.name}: loading it") from e
    except BaseException:
        if backend is not None:
            backend.close()
        opened.close()
        raise
    return Model(prepared, session, load_s=time.perf_counter() - began)


def _free_bytes() -> int:
    """What the GPU has free. BackendError, before anything is read: there is none."""
    from .runtime.cuda.driver import CudaDevice  # noqa: PLC0415 - only where it is asked for

    gpu = CudaDevice()
    try:
        return gpu.free_bytes()
    finally:
        gpu.close()


def _backend(prepared: Prepared) -> Backend:
    """The machine that was asked for; only its code is imported."""
    if not prepared.request.gpu:
        from .runtime.cpu.backend import CpuBackend  # noqa: PLC0415 - as above

        return CpuBackend(prepared.program.threads)
    from .runtime.cuda.backend import CudaBackend  # noqa: PLC0415 - as above
    from .runtime.cuda.driver import CudaDevice  # noqa: PLC0415 - as above

    return CudaBackend(CudaDevice())


def quantizer(plan: LoadPlan) -> PackRows:
    """What rounds the matrices of a plan: our kernels, which compile, where it rounds any."""
    dtypes = {source.dense for source in plan if source.quantizes}
    if not dtypes:
        return pack_rows
    from .runtime.cpu.packer import packer  # noqa: PLC0415 - it compiles; a plan that rounds nothing needs none of it

    return packer(dtypes)


class Model:
    """A loaded model. Several texts may be open at once, in several threads; their steps take turns.

    `memory` holds the predicted bytes by part; "allocated" is the arena, the resident weights and the constants
    together, and exactly that much is allocated. `receipt` says what was read of the files, weight by weight.
    """

    def __init__(self, prepared: Prepared, session: Session, *, load_s: float) -> None:
        """Made by `load`."""
        self.config, self.memory, self.receipt = prepared.config, prepared.memory, prepared.receipt
        self.load_s, self._closed = load_s, False
        self._opened, self._plan, self._session = prepared.opened, prepared.plan, session
        self._tokenizing = _Tokenizing(prepared.opened.directory, prepared.plan.cut)
        ids = self.config.bos_ids, self.config.eos_ids
        d = self.config.decoding
        rules = Rules() if d is None else Rules(never=d.never, forced_bos=d.forced_bos, forced_eos=d.forced_eos)
        self._text = Text(self._tokenizing.codec, self._tokenizing.is_there, *ids, load_s, rules)

    @property
    def tokenizer(self) -> Tokenizer:
        """The directory's tokenizer, read at first use; its ids are the rows of a cut vocabulary. `TokenizerError`."""
        return self._tokenizing.tokenizer

    def hashed_receipt(self) -> Receipt:
        """`receipt` with the SHA-256 of every weight's bytes in the files; reads them all."""
        return hashed(self.receipt, self._plan, self._opened.checkpoint)

    def program(self) -> Program:
        """What a step runs; `program().listing()` has it as lines of text."""
        return self._session.program

    @property
    def corrections(self) -> tuple[str, ...]:
        """In words: sizes that config.json has wrong, and what generation_config.json asks for that is not applied.

        Sizes are the tensors' instead; parameters of answers are those that you give. The receipt has these lines too.
        """
        return self._opened.corrections

    @property
    def session(self) -> Session:
        """What takes the steps, for tools that feed tokens themselves; not synchronised with open streams."""
        return self._session

    @property
    def threads(self) -> int:
        """Threads that a step uses."""
        return self._session.threads

    @property
    def n_context(self) -> int:
        """Positions reserved."""
        return self._session.n_context

    @memory_named("logits")
    def logits(self, ids: object, *, token_types: object = None, decoder_ids: object = None) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, n_vocab]. Errors: `InputError`.

        Of an encoder, what its head gives: [T, n_vocab] (masked tokens), [T, labels] (token classes), [T, 2] (start and
        end of an answer), [labels] (classes of the text); `Model.config` has `head` and `labels`. `token_types`: as in
        `hidden`. Of an encoder-decoder, whose encoder reads `ids`: [U, n_vocab] of its decoder's [U] `decoder_ids`.
        """
        if self.config.seq2seq:
            self._no_types(token_types)
            return self._rows(self._decoder_ids(decoder_ids), "logits", self.config.n_vocab, self._source(ids, "ids"))
        if decoder_ids is not None:
            msg = f"decoder_ids: {self.config.family} is no encoder-decoder; leave them out"
            raise InputError(msg)
        if self.config.decoder is None:
            return next(scored(self._session, self.config, [self._whole(ids, token_types)]))
        self._no_types(token_types)
        self._check_kind("logits", encoder=False)
        return self._rows(ids, "logits", self.config.n_vocab)

    @memory_named("hidden")
    def hidden(self, ids: object, *, token_types: object = None) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, d_model]: what leaves the last layer, after the final norm. Errors: `InputError`.

        `token_types`: of each token, of an encoder that has such (BERT's segments; default: all are 0). Of an
        encoder-decoder, what its encoder gives; nothing of its decoder is read.
        """
        if self.config.seq2seq:
            self._no_types(token_types)
            return next(encoded(self._session, [Whole(self._source(ids, "ids"))], np.copy))
        if self.config.decoder is None:
            return next(encoded(self._session, [self._whole(ids, token_types)], np.copy))
        self._no_types(token_types)
        return self._rows(ids, "hidden", self.config.d_model)

    def _whole(self, ids: object, token_types: object) -> Whole:
        return Whole(self._ids(ids), None if token_types is None else checked_ids(token_types))

    def _no_types(self, token_types: object) -> None:
        if token_types is not None:
            msg = f"token_types: {self.config.family} has none"
            raise InputError(msg)

    @memory_named("last_logits")
    def last_logits(self, sequences: object) -> NDArray[np.float32]:
        """Several sequences of ids -> float32 [sequences, n_vocab]: the logits after the last token of each.

        One pass takes as many as fit it (`prefill_chunk` tokens, 32 sequences, the cache); the bits are those that
        each gets alone (on a GPU, with precision="exact"). Errors: `InputError`.
        """
        self._check_kind("last_logits", encoder=False)
        if self.config.seq2seq:
            msg = f"last_logits: {self.config.family} is an encoder-decoder; use logits(ids, decoder_ids=...)"
            raise InputError(msg)
        if isinstance(sequences, np.ndarray):
            sequences = list(sequences) if sequences.ndim else None
        if isinstance(sequences, str | bytes) or not isinstance(sequences, Iterable):
            msg = f"sequences: {type(sequences).__name__} found, expected several sequences of token ids"
            raise InputError(msg)
        return self._session.last_logits([self._ids(s, f"sequence {i}") for i, s in enumerate(sequences)])

    @memory_named("encode")
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """A vector for each text, pooled as the directory says (modules.json; without it, the mean of its tokens).

        Of a decoder too, where there is a modules.json (Qwen3-Embedding).

        One text gives float32 [d], several [texts, d], an iterator an iterator, which takes texts as passes need them.
        Texts are packed end to end, without padding; a text's bits do not depend on the others. Longer ones are cut to
        max_seq_length, or to the model's positions. `prompt` stands before every text, or the directory's prompt
        `prompt_name`; `normalize`: to length 1 at the end, or not (default: as the directory says); `truncate_dim`:
        keep the first dimensions of what the directory's steps give, whose length is 1 again with `normalize=True`.
        Errors: `InputError`, `TokenizerError`, `ConfigError`.
        """
        if self.config.decoder is None or self.config.seq2seq or not self._sentence.said:
            self._check_kind("encode", encoder=True)
        return self._vectors.of(
            texts, prompt=prompt, prompt_name=prompt_name, normalize=normalize, truncate_dim=truncate_dim
        )

    @memory_named("predict")
    def predict(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """The score of each pair of texts, as `CrossEncoder.predict` of sentence-transformers: of classifiers.

        Several pairs give float32 [pairs], or [pairs, labels] where there is more than one; an iterator an iterator of
        [labels]. Logits go through the function that config.json names (`sentence_transformers.activation_fn`), or
        without one through the logistic function where there is one label. Errors: `InputError`, also for a pair of
        more tokens than the model has positions; `TokenizerError`, `ConfigError`.
        """
        return self._pairs.of(pairs)

    @once
    def _pairs(self) -> Pairs:
        act = pair_activation(self._opened.raw, str(self._opened.directory / "config.json"), len(self.config.labels))
        return Pairs(self._session, self.tokenizer, self.config, act)

    @once
    def _vectors(self) -> Vectors:
        return Vectors(self._session, self.tokenizer, self._sentence)

    @once
    def _sentence(self) -> Sentence:
        return read_sentence(self._opened.directory, self.config.d_model)

    def _check_kind(self, call: str, *, encoder: bool) -> None:
        """Refuse what a decoder, or an encoder, has no answer to."""
        if self.config.seq2seq and call == "encode":
            msg = (
                f"encode: {self.config.family} is an encoder-decoder, whose texts have no vector of their own; hidden "
                "gives its encoder's rows, generate its answer"
            )
            raise InputError(msg)
        if encoder != (self.config.decoder is None):
            what, instead = (
                ("a decoder", DECODERS_USE)
                if encoder
                else ("an encoder, which writes no text", "encode, hidden or logits")
            )
            msg = f"{call}: {self.config.family} is {what}; use {instead}"
            raise InputError(msg)
        if not self.config.lm_head:
            msg = (
                f"{call}: this {self.config.family} has no head (no lm_head in the file, and tie_word_embeddings is "
                "false): use encode or hidden"
            )
            raise InputError(msg)

    def _ids(self, ids: object, what: str = "ids") -> list[int]:
        """Ids that fit the context: InputError."""
        return self._fitting(check_ids(ids, self.config.n_vocab, what=what), what)

    def _fitting(self, wanted: list[int], what: str) -> list[int]:
        if len(wanted) > self.n_context:
            over = len(wanted) - self.n_context
            most = self.config.n_context
            how = f", or load with max_context={min(len(wanted), most)}" if self.n_context < most else ""
            msg = f"{what}: {len(wanted)} tokens, {over} more than the context of {self.n_context}; give fewer{how}"
            raise InputError(msg)
        return wanted

    def _source(self, ids: object, what: str = "prompt") -> list[int]:
        """What an encoder-decoder's encoder reads, a text or ids. Errors: `InputError`."""
        text = self.tokenizer.encode(ids) if isinstance(ids, str) else ids
        return self._fitting(check_ids(text, self.config.encoding.n_vocab, what=what), what)

    def _decoder_ids(self, ids: object) -> list[int]:
        decoding = self.config.decoding
        if ids is None and decoding is not None:
            msg = (
                f"decoder_ids: logits of {self.config.family} need what its decoder reads, from id {decoding.start} on"
            )
            raise InputError(msg)
        return self._ids(ids, "decoder_ids")

    def _rows(self, ids: object, what: str, width: int, source: Ids[int] | None = None) -> NDArray[np.float32]:
        wanted = self._ids(ids)
        out = float_rows(len(wanted), width, what)
        with Sequence(self._session, source=source) as sequence:
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

    @memory_named("sequence")
    def sequence(self, source: Prompt | None = None) -> Sequence:
        """An empty sequence with its own pages of the cache; several may be open. `close()` or `with` frees them.

        `source`: what the encoder of an encoder-decoder reads; the sequence is what its decoder reads and writes.
        """
        self._check_kind("generate", encoder=False)
        if self.config.seq2seq == (source is None):
            what = "needs a" if source is None else "has no"
            msg = f"source: a sequence of {self.config.family} {what} source, a text or ids that an encoder reads"
            msg = msg if source is None else f"{msg}; leave it out, and feed the text"
            raise InputError(msg)
        return Sequence(self._session, self._text, source=None if source is None else self._source(source))

    def _begun(self, prompt: Prompt, parameters: GenerateKwargs) -> tuple[Sequence, Prompt, GenerateKwargs]:
        """A sequence, what it reads first, and the parameters that are left.

        It reads the prompt, or what begins an encoder-decoder's answer to it.
        """
        decoding = self.config.decoding
        if decoding is None:
            if parameters.get(START) is not None:
                msg = f"{START}: {self.config.family} is no encoder-decoder; leave it out"
                raise InputError(msg)
            return self.sequence(), prompt, parameters
        left = self._text.with_ids(parameters).copy()
        start = left.pop("decoder_start_token_id", None)
        first = [decoding.start] if start is None else check_ids([start], self.config.n_vocab, what=START)
        return self.sequence(prompt), first, left

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("stream")
    def stream(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> Iterator[str]:
        """Return the answer's text in pieces as it comes. Parameters as in `generate`, checked at once."""
        tokens = self.tokens(prompt, **parameters)
        return Stream(t.text for t in tokens if t.text)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("generate")
    def generate(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> Generation:
        """Answer a text or ids: `.text`, `.ids`, `.finish_reason`, `.timings`, `.seed`.

        Parameters have the names of Hugging Face's `GenerationConfig`, and None means "not given", except for
        `max_new_tokens`: 256 if it is not given, and None goes on until the context is full. `do_sample`, or
        any of `temperature`, `top_k`, `top_p`, `min_p`: draw at random, the same text for the same `seed`,
        which is drawn afresh if it is not given (`.seed` has it); otherwise the likeliest token is taken.
        `repetition_penalty` above 1 makes tokens that already occur less likely. `stop_strings` (or `stop`):
        end before this text, or before one of several; `eos_token_id`: end with this id, or one of several, in
        place of the model's own; `ignore_eos`: go on where the model would end. `no_repeat_ngram_size`: no run of this
        many ids comes twice, `encoder_no_repeat_ngram_size`: none of the prompt's comes; `bad_words_ids`: runs that
        never come; `min_new_tokens`: ids before one that ends; `forced_bos_token_id`, `forced_eos_token_id`: an
        encoder-decoder's first id, and the last that fits; `decoder_start_token_id`: what it reads before them. These
        three take a token's text too: a translation's language, for instance.
        `num_beams` above 1: the answer whose ids are the likeliest together, with `.score` and `.alternatives`
        (`num_return_sequences`), by `length_penalty` and `early_stopping`. The prompt of an encoder-decoder is what its
        encoder reads. Errors: `InputError`.
        """
        [answer] = self._answers([prompt], parameters)
        return answer

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("generate_all")
    def generate_all(self, prompts: Iterable[Prompt], **parameters: Unpack[GenerateKwargs]) -> list[Generation]:
        """Answer several texts or ids, in order, as `generate` answers each; all are checked before any is answered.

        With `num_beams` above 1 as many are searched together as the cache has room for. Errors: `InputError`, which
        names the prompt by its number.
        """
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
            msg = f"prompts: {type(prompts).__name__} found, expected several prompts; generate answers one"
            raise InputError(msg)
        return self._answers(prompts, parameters, numbered=True)

    def _answers(
        self, prompts: Iterable[Prompt], parameters: GenerateKwargs, *, numbered: bool = False
    ) -> list[Generation]:
        with ExitStack() as opened:
            asked = []
            for i, prompt in enumerate(prompts):
                with _numbered(i if numbered else None):
                    sequence, first, left = self._begun(prompt, parameters)
                    asked.append(opened.enter_context(sequence).asked(first, left))
            return answers(self._session, asked)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("tokens")
    def tokens(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> Iterator[Token]:
        """As `stream`, with ids, and with the last step finish reason, timings and seed."""
        sequence, first, left = self._begun(prompt, parameters)
        return Stream(_to_its_end(sequence, sequence.tokens(first, **left)))

    def close(self) -> None:
        """Wait for the step that runs, end open streams with an `InputError`, stop the threads, close the files.

        Harmless when done twice, by several threads, or in a forked child.
        """
        self._closed = True
        with self._session.lock:
            self._session.close()
            self._opened.close()

    def __del__(self) -> None:
        """Say that it was dropped open, as files do. Threads and memory go with the last sequence that uses them."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refused: `pickle`, `copy`, `deepcopy`."""
        msg = (
            "a Model holds mapped files and threads, and cannot be copied or pickled; pass its path, and load it there"
        )
        raise InputError(msg)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Family, size and where it came from."""
        name, family = self._opened.directory.name, self.config.family
        return f"<miaotui.Model {name}: {family}, {self._plan.parameters:,} parameters>"


@contextmanager
def _numbered(i: int | None) -> Iterator[None]:
    """An `InputError` from inside says which of several prompts it is about."""
    try:
        yield
    except InputError as e:
        if i is None:
            raise
        msg = f"{e} (prompt {i} of the list, counted from 0)"
        raise InputError(msg) from None


def _to_its_end(sequence: Sequence, tokens: Iterator[Token]) -> Generator[Token, None, None]:
    """Free the pages when the answer ends, or is dropped."""
    with sequence:
        yield from tokens


class _Tokenizing:
    """A directory's tokenizer, read when first asked for. Apart from `Model`, so that sequences do not hold it."""

    def __init__(self, directory: Path, cut: Cut) -> None:
        self._directory, self._cut = directory, cut

    @once
    def tokenizer(self) -> Tokenizer:
        """It maps ids to the rows of a cut vocabulary. `TokenizerError`."""
        directory, cut = self._directory, self._cut
        t, kept = Tokenizer.from_directory(directory), kept_ids(directory)
        if kept is not None and len(kept) != cut.before.n_vocab:
            msg = (
                f"{directory.name}: kept_vocab.json names {len(kept)} tokens, the model's vocabulary has "
                f"{cut.before.n_vocab}; they do not belong together"
            )
            raise TokenizerError(msg)
        if kept is None and cut.vocab is None:
            return t
        return KeptTokenizer(t, cut.tokens(kept), make_replacement(t, cut.fallback(kept, kept_fallback(directory))))

    def codec(self) -> Tokenizer:
        """As `tokenizer`."""
        return self.tokenizer

    def is_there(self) -> bool:
        """Whether the directory has one."""
        return is_there(self._directory / "tokenizer.json", TokenizerError)

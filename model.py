"""`load` joins loader and runtime; `Model` is what users hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from .errors import BackendError, InputError, TokenizerError
from .limits import (
    LOGIT_ROWS,
    PREFILL_CHUNK,
    check_counts,
    check_kv_cache,
    check_memory,
    check_precision,
    precision_notes,
    predicted_memory,
    reserved,
    threads_of,
)
from .loader.checkpoint import open_checkpoint
from .loader.config import parse_config
from .loader.hub import locate
from .loader.load_plan import make_load_plan
from .loader.pack import pack, planned
from .loader.prune import options
from .loader.prune.ratios import assumed_indices, ranked
from .loader.prune.receipt import hashed, make_receipt
from .loader.prune.stored_zeros import counted, uncounted
from .loader.text.tokenizer import Tokenizer
from .loader.text.vocab_fallback import make_replacement
from .loader.text.vocabulary import KeptTokenizer, kept_fallback, kept_ids
from .runtime.generate import Generation, Token, check_ids, collect, params_from, stream
from .runtime.program import record
from .runtime.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .loader.checkpoint import Checkpoint
    from .loader.load_plan import LoadPlan
    from .loader.prune.options import Prune
    from .loader.prune.receipt import Receipt
    from .runtime.program import Program
    from .runtime.spec import Config, Weights

__all__ = ["Model", "load", "pack_weights"]


def load(  # noqa: PLR0913 (keywords)
    path: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    max_context: int | None = None,
    memory_limit: int | None = None,
    revision: str | None = None,
    prefill_chunk: int | None = None,
    quantize: str | None = None,
    prune: Prune | None = None,
    kv_cache: str = "f32",
    precision: str = "exact",
) -> Model:
    """Open a Hugging Face directory or hub name as a `Model`.

    `device`: "cpu", or "cuda" for an NVIDIA GPU (the cuda extra): the weights and the arena are then its memory's.
    `threads`: default, the cores this process may use. `max_context`: positions to reserve (default: the model's, at
    most 2048). `memory_limit`: bytes for everything we allocate (resident weights, arena, KV cache, constants; mapped
    files are the page cache's; with a GPU, of its memory and of the host's each); over it, or over what the GPU has
    free, `MemoryLimitError` before any tensor is read. `prefill_chunk`: tokens a pass (default: 128; with a GPU 1024).
    `quantize`: "int8" (8.5 bits a weight), "int4" (4.5) or "int4a" (5: asymmetric) for every matrix, or by role
    ("int4,embed=int8"); done while reading, a few rows at a time. `kv_cache`: "f32", "bf16" (half the memory) or "int8"
    (a quarter). `precision`: "fast" rounds the input of BF16 matrices to BF16 where the CPU multiplies such pairs:
    nearly twice as fast for long prompts, and the bits are then that CPU's own. On a GPU long prompts go to the tensor
    core: attention rounds to BF16 too, the input of F16 matrices to F16, and F32 matrices with their input to TF32.
    `prune`: what to keep, as a `PrunePlan`, a plan's file, or short forms such as "keep-layers=0-2; ffn=0.75"; what is
    cut away is never read, and `Model.receipt` says what was. A share of the neurons, or of the width, reads the
    matrices that rank them, and "sparsity=stored" those whose zeros it counts, once it is known that the memory will do
    for all else.
    Errors: `CheckpointError`, `ConfigError`, `HubError`, `InputError`, `PlanError`, `BackendError`.
    """
    began = time.perf_counter()
    free = _check_device(device)
    check_counts(threads=threads, max_context=max_context, memory_limit=memory_limit, prefill_chunk=prefill_chunk)
    check_kv_cache(kv_cache)
    fast = check_precision(precision, gpu=device == "cuda")
    checkpoint = open_checkpoint(locate(path, revision=revision))
    try:
        where = str(checkpoint.directory / "config.json")
        config = parse_config(checkpoint.config, where, checkpoint.generation)
        pruned, whole = options.parse_prune(prune, checkpoint, config, rank=False), config
        plan = make_load_plan(checkpoint, config, quantize, None if pruned is None else assumed_indices(pruned, config))
        config = plan.config
        context = reserved(config, max_context)
        chunk = min(prefill_chunk or PREFILL_CHUNK[device], context)
        n_logits, n_threads = min(LOGIT_ROWS, chunk), threads_of(threads)
        shape: dict[str, Any] = {"n_context": context, "chunk": chunk, "n_logits": n_logits, "fast": fast}
        shape["threads"] = n_threads if free is None else 1  # a GPU's scratch is that of one
        program = record(config, planned(plan), **shape, kv_cache=kv_cache)
        memory = predicted_memory(plan, program, device)
        unsure = sum(s.nbytes for s in uncounted(plan) if s.offset is not None)
        limit = partial(check_memory, checkpoint.directory.name, memory_limit, context=context, chunk=chunk)
        limit(memory, free=free, unsure=unsure)
        if uncounted(plan) or (pruned is not None and pruned.ratio is not None):  # only now is anything read
            pruned = None if pruned is None else ranked(pruned, checkpoint, whole)
            plan = counted(make_load_plan(checkpoint, whole, quantize, pruned), checkpoint)
            memory = predicted_memory(plan, record(config, planned(plan), **shape, kv_cache=kv_cache), device)
            limit(memory, free=free)
        weights = pack_weights(plan, checkpoint, n_threads)
        session = _session(device, config, weights, **shape, kv_cache=kv_cache)
    except BaseException:
        checkpoint.close()
        raise
    receipt = make_receipt(plan, checkpoint, pruned, notes=precision_notes(precision, fast=fast, gpu=free is not None))
    took = time.perf_counter() - began
    return Model(checkpoint, plan, config, session, memory=memory, load_s=took, receipt=receipt)


def _check_device(device: object) -> int | None:
    """A GPU's free bytes, None for the CPU. BackendError, before anything is read: it is not there."""
    if device not in ("cpu", "cuda"):
        msg = f"device={device!r}: expected 'cpu' or 'cuda'"
        raise BackendError(msg)
    if device == "cpu":
        return None
    from .runtime.cuda.driver import CudaDevice  # noqa: PLC0415 - only where it is asked for

    gpu = CudaDevice()
    try:
        return gpu.free_bytes()
    finally:
        gpu.close()


def _session(device: str, config: Config, weights: Weights, *, threads: int, **how: Any) -> Session:  # noqa: ANN401
    if device == "cpu":
        return Session(config, weights, threads=threads, **how)
    from .runtime.cuda.driver import CudaDevice  # noqa: PLC0415 - as above
    from .runtime.cuda.session import CudaSession  # noqa: PLC0415 - as above

    gpu = CudaDevice()
    try:
        return CudaSession(gpu, config, weights, **how)
    except BaseException:
        gpu.close()
        raise


def pack_weights(plan: LoadPlan, checkpoint: Checkpoint, threads: int) -> Weights:
    """Every weight; what is quantised is so by our kernels. Errors: `CheckpointError`."""
    dtypes = {source.dense for source in plan if source.quantizes}
    if not dtypes:
        return pack(plan, checkpoint, threads=threads)
    from .runtime.cpu.packer import packer  # noqa: PLC0415 - it compiles; a plan that rounds nothing needs none of it

    return pack(plan, checkpoint, threads=threads, rows=packer(dtypes))


class Model:
    """A loaded model: one sequence at a time. Safe to call from several threads; the calls take turns.

    `memory` holds the predicted bytes by part; "allocated" is what the arena, the resident weights and the constants
    really take. `receipt` says what was read of the files, weight by weight.
    """

    def __init__(  # noqa: PLR0913 - what load has made
        self,
        checkpoint: Checkpoint,
        plan: LoadPlan,
        config: Config,
        session: Session,
        *,
        memory: dict[str, int],
        load_s: float,
        receipt: Receipt,
    ) -> None:
        """Made by `load`."""
        self.config, self.memory, self.load_s, self.receipt = config, memory, load_s, receipt
        self._checkpoint, self._plan, self._session = checkpoint, plan, session
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._closed = False

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The directory's tokenizer, read at first use; its ids are the rows of a cut vocabulary. `TokenizerError`."""
        directory, cut = self._checkpoint.directory, self._plan.cut
        t, kept = Tokenizer.from_directory(directory), kept_ids(directory)
        last = cut.before.n_vocab if kept is None else len(kept)
        if last != cut.before.n_vocab or (kept is None and t.n_vocab > last):
            msg = (
                f"{directory.name}: tokenizer.json has ids up to {t.n_vocab - 1}, the model's vocabulary ends at "
                f"{cut.before.n_vocab - 1}; they do not belong together"
            )
            raise TokenizerError(msg)
        if kept is None and cut.vocab is None:
            return t
        return KeptTokenizer(t, cut.tokens(kept), make_replacement(t, cut.fallback(kept, kept_fallback(directory))))

    def hashed_receipt(self) -> Receipt:
        """`receipt` with the SHA-256 of every weight's bytes in the files; reads them all."""
        return hashed(self.receipt, self._plan, self._checkpoint)

    def program(self) -> Program:
        """What a step runs; `program().listing()` prints it."""
        return self._session.program

    @property
    def corrections(self) -> tuple[str, ...]:
        """Sizes that config.json has wrong and the tensors were believed for, in words; the receipt has them too."""
        return self._checkpoint.corrections

    @property
    def session(self) -> Session:
        """What takes the steps, for tools that feed tokens themselves; nothing guards it against a stream beside it."""
        return self._session

    @property
    def threads(self) -> int:
        """Threads that a step uses."""
        return self._session.threads

    @property
    def n_context(self) -> int:
        """Positions reserved."""
        return self._session.n_context

    def logits(self, ids: object) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, n_vocab]. Errors: `InputError`."""
        return self._rows(ids, "logits", self.config.n_vocab)

    def hidden(self, ids: object) -> NDArray[np.float32]:
        """[T] ids -> float32 [T, d_model] behind the final norm. Errors: `InputError`."""
        return self._rows(ids, "hidden", self.config.d_model)

    def last_logits(self, sequences: object) -> NDArray[np.float32]:
        """Several sequences of ids -> float32 [sequences, n_vocab]: the logits behind the last token of each.

        A GPU takes as many at once as fit a pass (`prefill_chunk` tokens, 32 sequences); with precision="exact" the
        bits are those of each alone. Errors: `InputError`.
        """
        if isinstance(sequences, str | bytes) or not isinstance(sequences, Iterable):
            msg = f"sequences: {type(sequences).__name__} found, expected several sequences of token ids"
            raise InputError(msg)
        wanted = [self._ids(s, f"sequence {i}") for i, s in enumerate(sequences)]
        self._acquire()
        try:
            return self._session.last_logits(wanted)
        finally:
            self._release()

    def _ids(self, ids: object, what: str = "prompt") -> list[int]:
        """Ids that fit the context: InputError."""
        wanted = check_ids(ids, self.config.n_vocab, what=what)
        if len(wanted) > self.n_context:
            over = len(wanted) - self.n_context
            msg = f"{what}: {len(wanted)} tokens, {over} more than the context of {self.n_context}"
            raise InputError(msg)
        return wanted

    def _rows(self, ids: object, what: str, width: int) -> NDArray[np.float32]:
        wanted = self._ids(ids)
        out = np.empty((len(wanted), width), np.float32)
        self._acquire()
        try:
            for at in range(0, len(wanted), self._session.n_logits):
                part = wanted[at : at + self._session.n_logits]
                self._session.step(part, at, len(part))
                out[at : at + len(part)] = getattr(self._session, what)
        finally:
            self._release()
        return out

    def stream(self, prompt: str | Sequence[int] | NDArray[np.integer[Any]], **parameters: object) -> Iterator[str]:
        """Give the answer's text in pieces as it comes. Parameters as in `generate`; checked at once."""
        tokens = self.tokens(prompt, **parameters)
        return (t.text for t in tokens if t.text)

    def generate(self, prompt: str | Sequence[int] | NDArray[np.integer[Any]], **parameters: object) -> Generation:
        """Answer a text or ids: `.text`, `.ids`, `.finish_reason`, `.timings`.

        Parameters carry GenerationConfig's names: max_new_tokens, do_sample, temperature, top_k, top_p, min_p,
        repetition_penalty, seed, stop_strings (or stop), eos_token_id, ignore_eos. Errors: `InputError`.
        """
        return collect(self.tokens(prompt, **parameters))

    def tokens(self, prompt: str | Sequence[int] | NDArray[np.integer[Any]], **parameters: object) -> Iterator[Token]:
        """As `stream`, with ids, finish reason and timings."""
        params = params_from(eos_ids=self.config.eos_ids, **parameters)
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        if isinstance(prompt, str) and not ids and self.config.bos_ids:
            ids = [self.config.bos_ids[0]]
        decode = self.tokenizer.decode if isinstance(prompt, str) or self._has_tokenizer or params.stop else None
        return self._guarded(stream(self._session, ids, params, decode, load_s=self.load_s))

    @cached_property
    def _has_tokenizer(self) -> bool:
        return (self._checkpoint.directory / "tokenizer.json").is_file()

    def _guarded(self, tokens: Iterator[Token]) -> Iterator[Token]:
        self._acquire()
        try:
            yield from tokens
        finally:
            self._release()

    def _acquire(self) -> None:
        if self._closed:
            msg = "this model was closed; load it again"
            raise InputError(msg)
        me = threading.get_ident()
        if self._holder == me:
            msg = "another stream of this model is still open in this thread: read it to its end or close it first"
            raise InputError(msg)
        self._lock.acquire()
        self._holder = me

    def _release(self) -> None:
        self._holder = None
        self._lock.release()

    def close(self) -> None:
        """Stop the threads and let go of the files. Harmless when done twice."""
        if not self._closed:
            self._closed = True
            self._session.close()
            self._checkpoint.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Family, size and where it came from."""
        name, family = self._checkpoint.directory.name, self.config.family
        return f"<miaotui.Model {name}: {family}, {self._plan.parameters:,} parameters>"

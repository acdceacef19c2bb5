"""`load` joins loader and runtime; `Model` is what users hold."""

from __future__ import annotations

import time
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeGuard, cast, overload

from .drafting import check_draft, draft_model, draft_part, drafters
from .errors import InputError, is_iterable, numbered, shown
from .interpreters import whole_imports
from .limits import AUTO, named_adapters
from .load_options import LOAD_DEFAULTS, LoadKwargs, parse_options
from .loader.ahead import fetch_whole
from .loader.lending import Lender
from .loader.open import open_model
from .loader.pack import pack
from .loader.quantize import pack_rows
from .picking import settled
from .prepare import prepare
from .runtime.blocks import Block
from .runtime.constraints import CONSTRAINTS
from .runtime.exits import Exits
from .runtime.floats import usual_floats
from .runtime.generate import Generation, Token, check_ids, retold
from .runtime.lora import with_adapters
from .runtime.memory import memory_named, refused
from .runtime.parameters import (
    CHAT_NAMES,
    DEFAULT_NEW_TOKENS,
    ChatKwargs,
    ConstraintKwargs,
    GenerateKwargs,
    check_names,
    overflow_of,
    salt_of,
    spelled_out,
)
from .runtime.searching import answers
from .runtime.sequence import OF_DECODERS, Sequence
from .runtime.session import Session
from .runtime.stream import Stream
from .scores import Scores

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
    from collections.abc import Sequence as Ids
    from os import PathLike
    from pathlib import Path
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray

    from .errors import MiaotuiError
    from .loader.checkpoint import Checkpoint
    from .loader.load_plan import LoadPlan
    from .loader.open import Opened
    from .loader.quantize import PackRows
    from .loader.text.chat_messages import Messages
    from .prepare import Prepared
    from .runtime.backend import Backend
    from .runtime.constraints import Constraint
    from .runtime.parameters import Overflow
    from .runtime.searching import Asked
    from .runtime.spec import Weight, Weights

    Prompt = str | Ids[int] | NDArray[np.integer[Any]]

__all__ = ["Model", "load", "quantizer"]

#: What begins an encoder-decoder's answer, in errors.
START = "decoder_start_token_id"


@spelled_out(LoadKwargs, LOAD_DEFAULTS)
@usual_floats()
@memory_named("load")
@whole_imports()
def load(
    path: str | Path | None = None, *, config: object = None, tensors: object = None, **options: Unpack[LoadKwargs]
) -> Model:
    """Open a Hugging Face directory or hub name as a `Model`; or one that is in memory already.

    `tensors`: arrays by name, NumPy's or any that DLPack can read (PyTorch's state_dict), or a module that has
    `state_dict()`; `config`: a dict as config.json holds, or an object with `to_dict()`; None: the module's own, or
    that of `path`, which otherwise gives the tokenizer alone. They are read where they lie: change none of them while
    the model is open (docs/from-memory.md).
    `device`: "cpu", or "cuda" for an NVIDIA GPU (the cuda extra), whose memory then holds the weights and the arena.
    `threads`: of a step; "auto" (the default): as many of the cores that this process may use as the step is worth,
    which is one for a token of a small model. No count changes an answer. `max_context`: positions to reserve (default:
    the model's, at most 2048). `memory_limit`: bytes, or a text such as "2GiB", for everything that is allocated
    (resident weights, arena, KV cache, constants; mapped files are not counted; with a GPU, for its memory and the
    host's each). A model that needs more than this, or more than the GPU has free, is a `MemoryLimitError` before any
    tensor is read.
    `prefill_chunk`: tokens per pass (default: 128; with a GPU 1024).
    `revision`: branch, tag or commit of a hub name (default: its main branch). `cache_tokens`: tokens that the KV cache
    holds for all open texts together (default: one text of `max_context`; of an encoder-decoder four beams of 256 too,
    and as many tokens of texts that its encoder has read); when it is full, an idle text loses its
    part, and is computed again when it goes on.
    `quantize`: "int8" (8.5 bits a weight), "int4" (4.5) or "int4a" (5: asymmetric) for every matrix, or by role
    ("int4,embed=int8") or layer ("int4,0-2.down=int8"); done while reading, a few rows at a time. Without it, a matrix
    that GPTQ, AWQ, FP8 tools or compressed-tensors quantised takes the smallest of these that holds it exactly, else
    F32 or BF16, as all do with "none" (docs/formats.md). `kv_cache`: "f32", "bf16" (half the memory) or "int8" (a
    quarter). `precision`: how products round their input (docs/precision.md). None: float matrices not at all, integer
    ones to 8 bits. "exact": integer ones to 16 bits. "int8", "bf16": to that, of integer and of BF16 matrices; a matrix
    that cannot take the word is an `InputError`. "fast": the fastest here, whose bits are its own: BF16 matrices take
    BF16 where the CPU multiplies such pairs, nearly twice as fast for long prompts. On a GPU these go to the tensor
    cores: attention rounds to BF16 too, the input of F16 matrices to F16, and F32 matrices with their input to TF32.
    `prune`: what to keep, as a `PrunePlan`, a plan's file (docs/plans.md), or short forms such as
    "keep-layers=0-2; ffn=0.75". What is cut away is never read, and `Model.receipt` says what was read. A share of the
    neurons, or of the width, reads the matrices that rank them, and "sparsity=stored" those whose zeros it counts,
    after a first check that everything else fits the memory limit.
    `adapter`: a PEFT LoRA adapter, a directory or a hub name, merged into the weights while they are read, before
    anything is cut or rounded (docs/adapters.md).
    `profile`: what `miaotui tune` chose, a `Profile` or its file; keywords that are given win over it, another model's
    is refused, and another machine's warned of. `auto`: pick, by prediction, rounding where the model does not fit the
    free memory; `Model.picked` says what and why. Both: docs/tuning.md.
    `adapters`: PEFT's directories by name, kept apart from the model's matrices: each text may choose one of them
    (`generate(adapter="name")`, `sequence(adapter="name")`), and texts of all share passes (docs/adapters.md).
    `adapter_slots`: places for this many more, of rank `adapter_rank` at most, which `Model.add_adapter` brings later.
    `draft`: guess ids ahead, and check several in one pass; every answer is the same, and often there sooner
    (docs/speculation.md). "ngram": what followed the same ids before, in prompt and answer; short forms of a plan such
    as "keep-layers=0-2", or a `PrunePlan`: that part of the model, numbered as in the checkpoint, whose first layers
    share its memory and cache; a path or hub name: a smaller model with the same vocabulary. What it takes is in
    `Model.memory` as "draft".
    Errors: `CheckpointError`, `ConfigError`, `HubError`, `InputError`, `PlanError`, `MemoryLimitError`, `BackendError`,
    `ProfileError`.
    """
    return _loaded(_place(path, config, tensors, options.get("revision")), options)


def _place(path: str | Path | None, config: object, tensors: object, revision: str | None) -> str | Path | Checkpoint:
    """What is to be opened. Errors: `InputError`."""
    if tensors is None:
        if config is not None or path is None:
            what = "path: there is none" if config is None else "config: it describes no tensors"
            msg = f"{what}; give a directory or a hub name, or a config and tensors"
            raise InputError(msg)
        if isinstance(path, dict) or callable(getattr(path, "state_dict", None)):
            msg = f"path: {type(path).__name__} found; a model that is in memory is load(tensors=...)"
            raise InputError(msg)
        return path
    if path is None and revision is not None:
        msg = f"revision={shown(revision)}: is of a hub name, and there is none; leave it out"
        raise InputError(msg)
    from .loader.given import given  # noqa: PLC0415 - few need it
    from .loader.hub import locate  # noqa: PLC0415 - as above

    return given(None if path is None else locate(path, revision=revision), config, tensors)


def _loaded(path: str | Path | Checkpoint, options: LoadKwargs, lender: Lender | None = None) -> Model:
    """`lender`: of the model that this one drafts for, as a part of it."""
    began = time.perf_counter()
    asked = parse_options(options)
    check_draft(asked.draft, asked.request.device)
    free = _free_bytes() if asked.request.gpu else None
    opened = open_model(path, revision=asked.revision, adapter=asked.request.adapter)
    backend: Backend | None = None
    prepared: Prepared | None = None
    drafts: Model | None = None
    try:
        some = asked.auto or asked.request.gpu or asked.request.prune is not None
        if not some and asked.request.limit_bytes is None:
            fetch_whole(opened)
        request, profile, picked = settled(asked, opened, free)
        ready = prepared = prepare(opened, request, free=free, part=draft_part(asked.draft), lender=lender)
        own = Lender(prepared.plan, lambda made: _packed(ready, lender, made))
        drafts = draft_model(asked.draft, prepared, own, _loaded)
        weights = own.weights()
        backend = _backend(prepared)
        session = Session(prepared.program, weights, backend)
        session.drafting.default = drafters(asked.draft, session, drafts)
    except MemoryError as e:
        if drafts is not None:
            drafts.close()
        opened.close()
        raise _no_memory(opened, prepared) from e
    except BaseException:
        if backend is not None:
            backend.close()
        if drafts is not None:
            drafts.close()
        opened.close()
        raise
    load_s = time.perf_counter() - began
    return Model(prepared, session, load_s=load_s, profile=profile, picked=picked, drafts=drafts)


def _packed(prepared: Prepared, lender: Lender | None, made: dict[int, Weight]) -> Weights:
    """The weights, those of adapters that are kept apart included; `made` as of `pack`."""
    plan, opened, apart = prepared.plan, prepared.opened, prepared.apart
    made.update({} if lender is None else lender.lent(plan))
    try:
        weights = pack(plan, opened.checkpoint, threads=prepared.request.n_threads, rows=quantizer(plan), made=made)
        return weights if apart is None else with_adapters(weights, apart.names, apart.loaded(opened.checkpoint))
    except MemoryError as e:
        raise _no_memory(opened, prepared) from e


def _no_memory(opened: Opened, prepared: Prepared | None) -> MiaotuiError:
    needed = prepared.memory["allocated"] if prepared is not None else 0
    return refused(needed, f"{opened.directory.name}: loading it")


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

        return CpuBackend(prepared.program.threads, auto=prepared.request.threads == AUTO)
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


class Model(Scores):
    """A loaded model. Several texts may be open at once, in several threads; their steps take turns.

    `memory` holds the predicted bytes by part; "allocated" is the arena, the resident weights and the constants
    together, and exactly that much is allocated. `receipt` says what was read of the files, weight by weight.
    """

    @memory_named("sequence")
    def sequence(
        self,
        source: Prompt | None = None,
        *,
        overflow: Overflow | None = None,
        adapter: str | None = None,
        cache_salt: str | None = None,
    ) -> Sequence:
        """An empty sequence with its own pages of the cache; several may be open. `close()` or `with` frees them.

        `source`: what the encoder of an encoder-decoder reads; the sequence is what its decoder reads and writes.
        `overflow`: that of its calls, where they give none; with "window" what is fed may outgrow the context too.
        `adapter`: which one reads and writes it, of those of `load(adapters=...)`; None: the model alone.
        `cache_salt`: as in `generate`.
        """
        return self._sequence(source, "sequence", overflow, adapter, cache_salt)

    @memory_named("load_sequence")
    def load_sequence(self, path: str | PathLike[str]) -> Sequence:
        """A sequence that goes on where `Sequence.save` left one, with the same bits; docs/sessions.md.

        The model must be the one that saved it, loaded alike: `quantize`, `prune`, `kv_cache`, `precision`. Its part of
        the cache takes pages as any text's does: idle ones go, and where all are needed it waits. Errors:
        `SequenceFileError`: the file is not there, is damaged, or another model saved it; `BackendError`: of a GPU.
        """
        self._check_kind("load_sequence", encoder=False)
        session = self._session
        if session.engine is None:
            session.backend.pools(0)  # which says why there are none
        state = self._files.read(path, session.n_context)
        number = self._session.adapters.number(state.adapter, "load_sequence")
        overflow: Overflow | None = "window" if state.context else None
        sequence = Sequence(
            session,
            self._text,
            ids=state.ids,
            source=state.source,
            seed=state.seed,
            overflow=overflow,
            adapter=number,
        )
        try:
            session.check_room(state.cached - state.gap)
            sequence.restore(state)
        except BaseException:
            sequence.close()
            raise
        return sequence

    @memory_named("add_adapter")
    def add_adapter(self, name: str, path: str | PathLike[str]) -> None:
        """Read a PEFT adapter into one of the places of `load(adapter_slots=...)`; texts may choose it from now on.

        Texts that are open go on meanwhile. Errors: as of `load(adapters=...)`; `InputError` where a name is taken, no
        place is free, the rank is above `adapter_rank`, or it changes more than matrices and biases of layers.
        """
        session, call = self._session, "add_adapter"
        if not session.adapters.n_places:
            msg = f"{call}: the model was loaded without places for adapters; load(adapter_slots=...)"
            raise InputError(msg)
        self._check_named(call, name)
        (path,) = (named_adapters({name: path}, call) or {}).values()
        rank = self._request.adapter_rank
        session.check_open()
        from .loader.apart import read_added  # noqa: PLC0415 - few need it

        numbers = read_added(name, path, self._opened, self._plan, rank)

        def written() -> None:
            self._check_named(call, name)
            session.adapters.add(name, numbers, session.forget_adapters)

        session.held(written)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter's name. Texts that began with it keep it until they end; then its place is free again."""
        self._session.held(lambda: self._session.adapters.remove(name, "remove_adapter"))

    def _check_named(self, call: str, name: object) -> None:
        """A name that no adapter has."""
        if name in self.adapters:
            msg = f"{call}: {shown(name)}: the model has an adapter of this name; remove_adapter it first"
            raise InputError(msg)

    def _sequence(
        self,
        source: Prompt | None,
        call: str,
        overflow: Overflow | None = None,
        adapter: str | None = None,
        salt: str | None = None,
    ) -> Sequence:
        """As `sequence`; errors name the `call`."""
        self._check_kind(call, encoder=False)
        if self.config.seq2seq == (source is None):
            what = "needs a" if source is None else "has no"
            msg = f"source: a sequence of {self.config.family} {what} source, a text or ids that an encoder reads"
            msg = msg if source is None else f"{msg}; leave it out, and feed the text"
            raise InputError(msg)
        read = None if source is None else self._source(source)
        number = self._session.adapters.number(adapter, call)
        made = salt_of(salt)
        return Sequence(self._session, self._text, source=read, overflow=overflow, adapter=number, salt=made)

    def _begun(self, prompt: Prompt, parameters: GenerateKwargs, call: str) -> tuple[Sequence, Prompt, GenerateKwargs]:
        """A sequence, what it reads first, and the parameters that are left; errors name the `call`.

        It reads the prompt, or what begins an encoder-decoder's answer to it.
        """
        decoding, adapter, salt = self.config.decoding, parameters.get("adapter"), parameters.get("cache_salt")
        if decoding is None:
            sequence = self._sequence(None, call, adapter=adapter, salt=salt)
            if parameters.get(START) is not None:
                msg = f"{START}: {self.config.family} is not an encoder-decoder; leave it out"
                raise InputError(msg)
            return sequence, prompt, parameters
        if overflow_of(parameters.get("overflow")) != "error":  # before the prompt is too long for it
            msg = f"overflow={parameters.get('overflow')!r}: {OF_DECODERS}"
            raise InputError(msg)
        left = self._text.with_ids(parameters).copy()
        start = left.pop("decoder_start_token_id", None)
        first = [decoding.start] if start is None else check_ids([start], self.config.n_vocab, what=START)
        return self._sequence(prompt, call, adapter=adapter, salt=salt), first, left

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("stream")
    def stream(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> Iterator[str]:
        """Return the answer's text in pieces as it comes. Parameters as in `generate`, checked at once."""
        tokens = self._tokens(prompt, parameters, "stream")
        return Stream(t.text for t in tokens if t.text)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]
    ) -> Generation: ...
    @overload
    def generate(self, prompt: Ids[Prompt], **parameters: Unpack[GenerateKwargs]) -> list[Generation]: ...
    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("generate")
    def generate(
        self, prompt: Prompt | Ids[Prompt], **parameters: Unpack[GenerateKwargs]
    ) -> Generation | list[Generation]:
        """Answer a text or ids: `.text`, `.ids`, `.finish_reason`, `.timings`, `.seed`; of a list of them, a list.

        Several prompts, and calls from several threads, share passes; each gets the bits that it gets alone.

        Parameters have the names of Hugging Face's `GenerationConfig`, and None means "not given", except for
        `max_new_tokens`: 256 if it is not given, and None goes on until the context is full. `do_sample`, or
        any of `temperature`, `top_k`, `top_p`, `min_p`: draw at random, the same text for the same `seed`,
        which is drawn afresh if it is not given (`.seed` has it); otherwise the likeliest token is taken.
        `repetition_penalty` above 1 makes tokens that already occur less likely. `stop_strings` (or `stop`):
        end before this text, or before one of several; `eos_token_id`: end with this id, or one of several, in
        place of the model's own; `ignore_eos`: go on where the model would end. `no_repeat_ngram_size`: no run of this
        many ids comes twice; `encoder_no_repeat_ngram_size`: no such run of the prompt; `bad_words_ids`: runs that
        never come; `min_new_tokens`: ids before one that ends; `forced_bos_token_id`, `forced_eos_token_id`: an
        encoder-decoder's first id, and the last that fits; `decoder_start_token_id`: what it reads before them. These
        three take a token's text too: a translation's language, for instance.
        `num_beams` above 1: the answer whose ids are the likeliest together, with `.score` and `.alternatives`
        (`num_return_sequences`), by `length_penalty` and `early_stopping`. `n`, or `num_return_sequences`, of drawn
        answers: this many, the first and its `.alternatives`. `logprobs`: `.logprobs` has the natural logarithm of
        each new id's probability by the model's raw logits; `top_logprobs`: this many of the likeliest ids in each
        place too; `echo`: the prompt's ids too. `logits_processor`: a function f(ids, row), or several, which change
        the logits before an id is drawn, or return others. What generation_config.json says of answers holds where a
        call does not say it (`generation_defaults`). docs/sampling.md has the formulas of all that follows.
        `guidance_scale`: how near the answer keeps to its prompt; `watermarking_config`: marks the answer;
        `remove_invalid_values`: draw although logits are no numbers; `renormalize_logits`, of beams.
        Of scores: `frequency_penalty`, `presence_penalty`, `encoder_repetition_penalty`, `logit_bias` ({id: added}),
        `sequence_bias`, `exponential_decay_length_penalty`; DRY's `dry_multiplier`, `dry_base`, `dry_allowed_length`,
        `dry_penalty_last_n`, `dry_sequence_breakers`. Of ids: `suppress_tokens`, `begin_suppress_tokens`,
        `min_length`, `forced_decoder_ids`. Of a draw: `typical_p`, `epsilon_cutoff`, `eta_cutoff`, `top_n_sigma`,
        `top_h`; `mirostat` with `mirostat_tau`, `mirostat_eta`; `dynatemp_range` with `dynatemp_exponent`, or
        `adaptive`, temperatures that follow the entropy; `xtc_probability` with `xtc_threshold`; and `sampler_order`,
        the order of these stages. `overflow`: what becomes of a text that is longer than the context: "error",
        "truncate-left" (of the prompt) or "window" (docs/sessions.md). `draft`: False guesses no ids ahead, "ngram"
        does by what the text repeats; no answer changes (docs/speculation.md). `priority`: of several calls that wait
        for room, the higher number goes first (docs/concurrency.md). `cache_salt`: only texts with the same one share
        what begins alike (docs/concurrency.md). `schema`, `grammar`, `regex` or `choices`: what the answer must be;
        `stop_at`: "block", of code (docs/constrained.md). `filters`: words and regular expressions that the text does
        not show, `mt.Filters`; `.filtered` has what was met (docs/filters.md). `show_tokens`: special tokens that the
        text shows, as a reader of a model's calls of tools needs them. `adapter`: which one of `load(adapters=...)`
        reads and writes the text (docs/adapters.md). The prompt of an encoder-decoder is what its encoder reads.
        Errors: `InputError`, and what a function of yours raises.
        """
        if _several(prompt):
            return self.generate_all(prompt, **parameters)
        [answer] = self._answers([cast("Prompt", prompt)], parameters, "generate")
        return answer

    @memory_named("constraint")
    def constraint(self, **parameter: Unpack[ConstraintKwargs]) -> Constraint:
        """What an answer must be (`schema`, `grammar`, `regex` or `choices`), compiled once for any number of answers.

        Give it in the place of what it was made of: `model.generate(prompt, schema=model.constraint(schema=mine))`.
        docs/constrained.md. Errors: `InputError`; `BackendError`: llguidance is not installed (the grammar extra).
        """
        check_names(parameter, CONSTRAINTS, "constraint")
        self._check_kind("constraint", encoder=False)
        _, made = self._text.held(cast("GenerateKwargs", parameter))
        if made is None:
            msg = f"constraint: nothing was given; expected one of {', '.join(CONSTRAINTS)}"
            raise InputError(msg)
        return made

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("infill")
    def infill(self, prefix: str, suffix: str, **parameters: Unpack[GenerateKwargs]) -> Generation:
        """What stands between two texts, by the tokens that a code model was trained with to fill in the middle.

        Parameters as in `generate`; the model's own ends, and the tokens that end a middle, end it. `stop_at="block"`
        ends it where the block ends that the prefix is in. docs/constrained.md. Errors: `InputError`: a model without
        such tokens; `TokenizerError`.
        """
        self._check_kind("infill", encoder=False)
        from .loader.text.fim import infill_of  # noqa: PLC0415 - few need it

        asked = infill_of(self.tokenizer, prefix, suffix)
        if parameters.get("eos_token_id") is None:
            parameters["eos_token_id"] = [*self.config.eos_ids, *asked.ends]
        if parameters.get("stop_at") == "block":
            parameters["stop_at"] = Block(prefix.rpartition("\n")[2])
        return self.generate(asked.ids, **parameters)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("generate_all")
    def generate_all(self, prompts: Iterable[Prompt], **parameters: Unpack[GenerateKwargs]) -> list[Generation]:
        """Answer several texts or ids, in order, as `generate` does a list; all are checked before any is answered.

        They share passes, as many as there is room for; the bits are those that each gets alone. One that cannot go on
        (its logits are NaN) ends alone, and is raised when the others are done. With `num_beams` above 1 as many are
        searched together as the cache has room for. Errors: `InputError`, which names the prompt by its number.
        """
        if isinstance(prompts, str | bytes) or not is_iterable(prompts):
            msg = f"prompts: {type(prompts).__name__} found, expected several prompts; generate answers one"
            raise InputError(msg)
        self._check_kind("generate_all", encoder=False)
        return self._answers(prompts, parameters, "generate_all", several=True)

    @overload
    async def agenerate(  # type: ignore[overload-overlap]  # as above
        self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]
    ) -> Generation: ...
    @overload
    async def agenerate(self, prompt: Ids[Prompt], **parameters: Unpack[GenerateKwargs]) -> list[Generation]: ...
    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    async def agenerate(
        self, prompt: Prompt | Ids[Prompt], **parameters: Unpack[GenerateKwargs]
    ) -> Generation | list[Generation]:
        """As `generate`, for coroutines: the event loop goes on meanwhile, and all its tasks share passes.

        A task that is cancelled computes nothing more, but on a GPU. That, and beams, answer in a thread of the loop's
        executor.
        """
        from .runtime.asynchronous import answer, answers, in_thread, while_wanted  # noqa: PLC0415 - imports asyncio

        engine = self._session.engine
        if engine is None:
            return await in_thread(partial(self.generate, prompt, **parameters))
        beams = self._text.completed(parameters).get("num_beams")  # which may be anything
        with memory_named("agenerate"), Exits() as opened:
            if not (beams is None or (isinstance(beams, Integral) and beams == 1)):
                several = _several(prompt)
                listed = cast("Iterable[Prompt]", prompt if several else [prompt])
                found = partial(self._answers, listed, parameters, "agenerate", several=several)
                made = await while_wanted(lambda check: found(check=check))
                return made if several else made[0]
            if _several(prompt):
                many = await in_thread(partial(self._asked, prompt, parameters, "agenerate", opened, several=True))
                return await answers(engine, many)
            [one] = await in_thread(partial(self._asked, [cast("Prompt", prompt)], parameters, "agenerate", opened))
            return await answer(engine, one)

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    async def astream(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> AsyncGenerator[str, None]:
        """As `stream`, for coroutines (`async for piece in model.astream(...)`). Parameters are checked at first."""
        async for token in self._atokens(prompt, parameters, "astream"):
            if token.text:
                yield token.text

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    async def atokens(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> AsyncGenerator[Token, None]:
        """As `tokens`, for coroutines. Parameters are checked at first."""
        async for token in self._atokens(prompt, parameters, "atokens"):
            yield token

    async def _atokens(self, prompt: Prompt, parameters: GenerateKwargs, call: str) -> AsyncGenerator[Token, None]:
        from .runtime.asynchronous import in_thread, tokens  # noqa: PLC0415 - imports asyncio

        engine = self._session.engine
        with memory_named(call), Exits() as opened:
            if engine is None:
                made = await in_thread(partial(self._tokens, prompt, parameters, call))
                while (token := await in_thread(partial(next, made, None))) is not None:
                    yield token
                return
            [one] = await in_thread(partial(self._asked, [prompt], parameters, call, opened))
            one = one.streamed()
            async for token in tokens(engine, one):
                yield token

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    async def achoices(
        self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """As `atokens`, of each of `n` drawn answers, which share passes: the answer's number, and its next token.

        With `echo` the prompt's log-probabilities come with the first answer's alone. Beams are known at their end.
        """
        from .runtime.asynchronous import each_token, in_thread  # noqa: PLC0415 - imports asyncio

        engine = self._session.engine
        if engine is None:
            made = await in_thread(partial(self.generate, prompt, **parameters))
            for number, answer in enumerate((made, *made.alternatives)):
                for token in retold(answer):
                    yield number, token
            return
        with memory_named("achoices"), Exits() as opened:
            [one] = await in_thread(partial(self._asked, [prompt], parameters, "achoices", opened))
            if one.params.beams.n > 1:
                one = one.streamed()
            numbered_tokens = each_token(engine, one, opened)
            try:
                async for numbered_token in numbered_tokens:
                    yield numbered_token
            finally:
                await numbered_tokens.aclose()

    @spelled_out(ChatKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("chat")
    def chat(self, messages: Messages, **parameters: Unpack[ChatKwargs]) -> Generation:
        """Answer the last of several messages, dicts with `role` and `content`, by the directory's chat template.

        Parameters as in `generate`, and as `tokenizer.apply_chat_template` has them: `tools`, `documents`,
        `chat_template`, `strftime_now`, and in `template_variables` what else the template reads, such as
        `enable_thinking`. `continue_final_message`: go on with the last message (default: where it is the assistant's).
        Errors: `InputError`, `TokenizerError`; `BackendError`: jinja2 is not installed (the chat extra).
        """
        ids, left = self._chat_ids(messages, parameters)
        return self.generate(ids, **left)

    @spelled_out(ChatKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("chat_stream")
    def chat_stream(self, messages: Messages, **parameters: Unpack[ChatKwargs]) -> Iterator[str]:
        """As `chat`, in pieces as they come."""
        ids, left = self._chat_ids(messages, parameters)
        return self.stream(ids, **left)

    def _chat_ids(self, messages: Messages, parameters: ChatKwargs) -> tuple[list[int], GenerateKwargs]:
        """The prompt, and the parameters of its answer."""
        check_names(parameters, ChatKwargs.__annotations__, "chat parameter")
        self._check_kind("chat", encoder=False)
        left: dict[str, Any] = dict(parameters)
        how = {name: left.pop(name) for name in CHAT_NAMES if name in left}
        return self.tokenizer.chat_ids(messages, **how), cast("GenerateKwargs", left)

    def _answers(
        self,
        prompts: Iterable[Prompt],
        parameters: GenerateKwargs,
        call: str,
        *,
        several: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> list[Generation]:
        with Exits() as opened:
            return answers(self._session, self._asked(prompts, parameters, call, opened, several=several), check)

    def _asked(
        self,
        prompts: Iterable[Prompt],
        parameters: GenerateKwargs,
        call: str,
        opened: Exits,
        *,
        several: bool = False,
    ) -> list[Asked]:
        """Checked, each with a sequence that ends with `opened`."""
        self._check_kind(call, encoder=False)
        asked, parameters = [], self._text.compiled(parameters)
        for i, prompt in enumerate(prompts):
            with numbered(i if several else None, "prompt {} of the list"):
                sequence, first, left = self._begun(prompt, parameters, call)
                asked.append(opened.enter_context(sequence).asked(first, left))
        return asked

    @spelled_out(GenerateKwargs, {"max_new_tokens": DEFAULT_NEW_TOKENS})
    @memory_named("tokens")
    def tokens(self, prompt: Prompt, **parameters: Unpack[GenerateKwargs]) -> Iterator[Token]:
        """As `stream`, with ids, and with the last step finish reason, timings and seed."""
        return self._tokens(prompt, parameters, "tokens")

    def _tokens(self, prompt: Prompt, parameters: GenerateKwargs, call: str) -> Iterator[Token]:
        """As `tokens`; errors name the `call`."""
        sequence, first, left = self._begun(prompt, parameters, call)
        return Stream(_to_its_end(sequence, sequence.tokens(first, **left)))


def _several(prompt: Prompt | Ids[Prompt]) -> TypeGuard[Ids[Prompt]]:
    """Whether it is a list of prompts, and not of ids."""
    first = prompt[0] if isinstance(prompt, list | tuple) and prompt else None
    return isinstance(first, str | list | tuple) or getattr(first, "ndim", 0) == 1


def _to_its_end(sequence: Sequence, tokens: Iterator[Token]) -> Generator[Token, None, None]:
    """Free the pages when the answer ends, or is dropped."""
    with sequence:
        yield from tokens

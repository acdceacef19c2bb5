"""What a loaded model is, whatever it is asked: its facts, its parts, its checks, and its end."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, Self

from .constraining import Constraining
from .errors import InputError
from .loader.generation import OF_SAMPLING, renumbered
from .loader.prune.receipt import hashed
from .runtime.generate import check_ids
from .runtime.rules import Rules
from .runtime.sequence import Text
from .sequence_file import SequenceFiles
from .tokenizing import Tokenizing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .loader.prune.receipt import Receipt
    from .loader.text.tokenizer import Tokenizer
    from .picking import Picked
    from .prepare import Prepared
    from .profiles import Profile
    from .runtime.program import Program
    from .runtime.session import Session

__all__ = ["Loaded"]

#: What a decoder has instead of an encoder's calls.
DECODERS_USE = "generate (or encode, of a directory with the modules.json of sentence-transformers)"


class Loaded:
    """Of `Model`: what all of its calls use."""

    def __init__(  # noqa: PLR0913 - keywords
        self,
        prepared: Prepared,
        session: Session,
        *,
        load_s: float,
        profile: Profile | None = None,
        picked: Picked | None = None,
        drafts: Loaded | None = None,
    ) -> None:
        """Made by `load`. `profile`: what it was loaded by; `picked`: what `auto` chose.

        `drafts`: the model that guesses for it, which closes with it.
        """
        self.config, self.memory, self.receipt = prepared.config, prepared.memory, prepared.receipt
        self.profile, self.picked = profile, picked
        if picked is not None:
            self.receipt = replace(self.receipt, notes=(*self.receipt.notes, str(picked)))
        self._drafts = drafts
        if drafts is not None:
            theirs = drafts.memory["allocated"]
            self.memory = self.memory | {"draft": theirs, "allocated": self.memory["allocated"] + theirs}
        self._request = prepared.request
        self.load_s, self._closed, self.device = load_s, False, prepared.request.device
        self._opened, self._plan, self._session = prepared.opened, prepared.plan, session
        self._tokenizing = Tokenizing(prepared.opened.directory, prepared.plan.cut)
        ids = self.config.bos_ids, self.config.eos_ids
        d = self.config.decoding
        rules = Rules() if d is None else Rules(never=d.never, forced_bos=d.forced_bos, forced_eos=d.forced_eos)
        self._files = SequenceFiles(prepared, session)
        which = prepared.receipt.digest  # no reference to the model
        hold = Constraining(self._tokenizing, self.config.n_vocab).compiled if self.config.writes else None
        said = renumbered(prepared.opened.generation, prepared.opened.config.n_vocab, prepared.plan.cut.vocab)
        sampled = {key: said.pop(key) for key in OF_SAMPLING if key in said}
        if (first := said.pop("forced_bos_token_id", None)) is not None:  # of a decoder: after a text's only id
            rules = replace(rules, forced_bos=first)
        whole = (prepared.opened.config.n_vocab, prepared.plan.cut.vocab)
        more: dict[str, Any] = {
            "whole": whole,
            "model": which,
            "constrain": hold,
            "said": said,
            "said_of_sampling": sampled,
        }
        self._text = Text(
            self._tokenizing.codec, self._tokenizing.is_there, *ids, load_s, rules, self._files.save, **more
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The directory's tokenizer, read at first use; its ids are the rows of a cut vocabulary. `TokenizerError`."""
        return self._tokenizing.tokenizer

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._opened.directory

    @property
    def config_json(self) -> Mapping[str, Any]:
        """config.json as it was read, with the sizes that the tensors have: what it says of labels and tasks."""
        return self._opened.raw

    @property
    def generation_json(self) -> Mapping[str, Any] | None:
        """generation_config.json as it was read; None where there is none, and config.json may say the same."""
        return self._opened.checkpoint.generation

    def hashed_receipt(self) -> Receipt:
        """`receipt` with the SHA-256 of every weight's bytes in the files; reads them all."""
        return hashed(self.receipt, self._plan, self._opened.checkpoint)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that are kept apart, one of which a text may choose."""
        return self._session.adapters.names

    def adapter_number(self, adapter: str | None, call: str) -> int:
        """An adapter's number, as calls of vectors and pairs take it; 0: none. Keep this very object while it is used.

        Errors: `InputError`, which begins with the `call`.
        """
        return self._session.adapters.number(adapter, call)

    def program(self) -> Program:
        """What a step runs; `program().listing()` has it as lines of text."""
        return self._session.program

    @property
    def corrections(self) -> tuple[str, ...]:
        """In words: sizes that config.json has wrong, and what generation_config.json asks for that is not applied.

        Sizes are the tensors' instead; parameters of answers are those that you give, and `generation_defaults`. The
        receipt has these lines too.
        """
        return self._opened.corrections

    @property
    def generation_defaults(self) -> Mapping[str, Any]:
        """Parameters of answers that generation_config.json says, for calls that do not give them themselves.

        Those of sampling, such as `temperature`, hold where a call says `do_sample=True`. Without that file,
        config.json's count.
        """
        return {**self._text.said, **self._text.said_of_sampling}

    @property
    def tokenizing(self) -> Tokenizing:
        """For `load`: the directory's tokenizer, if it has one, not read yet."""
        return self._tokenizing

    @property
    def session(self) -> Session:
        """What takes the steps, for tools that feed tokens themselves; not synchronised with open streams."""
        return self._session

    @property
    def closed(self) -> bool:
        """Whether it was closed, and answers nothing more."""
        return self._closed

    @property
    def threads(self) -> int:
        """Threads that a step uses at most: with `threads="auto"` a small one uses fewer (`threads_for`)."""
        return self._session.threads

    def threads_for(self, tokens: int = 1) -> int:
        """Threads that a pass of so many tokens of a text uses, where the cores are free."""
        return self._session.backend.threads_for(tokens, 1, tokens)

    @property
    def n_context(self) -> int:
        """Positions reserved."""
        return self._session.n_context

    def _check_kind(self, call: str, *, encoder: bool) -> None:
        """Refuse what a decoder, or an encoder, has no answer to."""
        if self.config.seq2seq and call == "encode":
            msg = (
                f"encode: {self.config.family} is an encoder-decoder, whose texts have no vector of their own; hidden "
                f"gives its encoder's rows, {'generate its answer' if self.config.writes else 'logits its classes'}, "
                "and what load(prune='only=encoder') leaves has vectors"
            )
            raise InputError(msg)
        if self.config.decoder is not None if encoder else not self.config.writes:
            calls = "logits or predict" if self.config.seq2seq else "encode, hidden or logits"
            what, instead = (
                ("a decoder", DECODERS_USE) if encoder else (f"{self.config.kind}, which writes no text", calls)
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

    def close(self) -> None:
        """Wait for the step that runs, end open streams with an `InputError`, stop the threads, close the files.

        Harmless when done twice, by several threads, or in a forked child.
        """
        self._session.close(self._opened.close)
        if self._drafts is not None:
            self._drafts.close()
        self._closed = True

    def __del__(self) -> None:
        """Say that it was dropped open, as files do. Threads and memory go with the last sequence that uses them."""
        if not getattr(self, "_closed", True) and warnings is not None:  # the interpreter's end takes names away
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

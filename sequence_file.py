"""A saved sequence: one safetensors file that is there whole or not at all, and is refused by another model.

| tensor | what | dtype and shape |
|---|---|---|
| `ids` | the text | I64 [n] |
| `source` | what an encoder-decoder's encoder reads | I64 [m] |
| `layers.N.keys`, `.values` | of the N-th layer that has a cache | F32, U16 (bfloat16), I8 [n_kv_heads, slots, d] |
| `layers.N.keys.scales`, `.values.scales` | of an int8 cache | F32 [n_kv_heads, slots] |
| each with `.sinks` | of a text that outgrew its context: its first tokens as they were computed | the same, 4 slots |

The slots are the last of those of `cached` tokens: what a window no longer sees is not kept. Metadata, texts:
`miaotui.sequence` (the format's number: 2 of a text that may outgrow its context, else 1), `miaotui.version` (which
wrote it; for people alone), `model.*` (the model's fingerprint), `state` (JSON: cached, shift, seed; in format 2
context and gap too; of a text with an adapter also adapter, its name and digest) and `blake2b` (of everything else). A
file is data from outside: every size is compared with the model's before memory is taken for it.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from .digest import blake2b
from .errors import CheckpointError, InputError, SequenceFileError
from .loader.files import parse_json, printable, reason, regular_size
from .loader.header import read_header
from .loader.paths import as_path, is_there
from .loader.write import new_file
from .once import once
from .runtime.engine.state import SequenceState, cache_layers
from .runtime.generate import check_ids
from .runtime.kvcache import PAGE
from .runtime.lora import product_of, without_adapters
from .runtime.ops import FAST, PLANES
from .runtime.rope import LONGEST
from .runtime.spec import weights_in
from .runtime.table import gap_of

if TYPE_CHECKING:
    import hashlib
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .loader.header import Header, TensorInfo
    from .prepare import Prepared
    from .runtime.program import Program
    from .runtime.session import Session
    from .runtime.spec import Weight, Weights

__all__ = ["SequenceFiles"]

#: Of a text that stays in its context, and of one that may outgrow it.
PLAIN, OUTGROWN = "1", "2"
_FORMAT, _DIGEST, _STATE, _MODEL = "miaotui.sequence", "blake2b", "state", "model."
#: safetensors' names of the dtypes that a file has.
_DTYPES = {"I64": np.int64, "F32": np.float32, "U16": np.uint16, "I8": np.int8}
#: Of each weight, this many spans of this many bytes are hashed, at even distances, the first and the last among them.
SPANS, SPAN = 16, 64
_BLOCK = 2**20
#: Characters of a plan that are kept in words.
_WORDS = 200


class SequenceFiles:
    """Writes the sequences of one model to files, and reads them again."""

    def __init__(self, prepared: Prepared, session: Session) -> None:
        """Of a loaded model; its weights are read when a fingerprint is first needed."""
        config, program = prepared.config, session.program
        self._weights, self._program, self._config = session.weights, program, config
        self._adapters = session.adapters
        self._name = prepared.opened.directory.name
        self._plan = prepared.receipt.plan

    @once
    def fingerprint(self) -> dict[str, str]:
        """What a model must have in common with the one that saved a sequence, by what it is called in an error.

        `config` is of the resolved `Config`; `plan` of the prune plan; `dtypes` of the names, dtypes and shapes of all
        weights as kernels read them, and so of `quantize`; `weights` of a sample of their bytes: those of a small
        weight all, of another 16 spans of 64 bytes. Other training, rounding or pruning changes nearly every number,
        and is told apart; a few numbers of a large matrix that were changed by hand may not be. `precision` is of the
        inputs of products that are not rounded as usual, not the word: on a CPU "fast" may be "bf16".
        """
        program, weights = self._program, list(_whole(without_adapters(self._weights)))
        kinds = "; ".join(f"{w.name} {w.dtype} {list(w.shape)} {w.kept}" for w in weights)
        sample = blake2b(digest_size=16)
        for weight in weights:
            for part in _sampled(weight):
                sample.update(part.data)
        plan = self._plan if len(self._plan) <= _WORDS else f"{self._plan[:_WORDS]}..."
        return {
            "config": f"{self._config.family} {_digest(repr(self._config))}",
            "plan": f"{printable(plan)} {_digest(self._plan)}",
            "dtypes": f"{', '.join(sorted({w.dtype for w in weights}))} {_digest(kinds)}",
            "weights": sample.hexdigest(),
            "kv_cache": program.kv_cache,
            "page": str(PAGE),
            "precision": _precision(program),
        }

    def save(self, state: SequenceState, path: str | os.PathLike[str]) -> None:
        """Write a state. Errors: `InputError` where the system refuses; what was there before is then as it was."""
        from safetensors.numpy import save  # noqa: PLC0415 - only those who save should pay

        tensors: dict[str, NDArray[Any]] = {"ids": np.array(state.ids, np.int64), **state.cache}
        if state.source is not None:
            tensors["source"] = np.array(state.source, np.int64)
        known: dict[str, object] = {"cached": state.cached, "shift": state.shift, "seed": state.seed}
        known |= {"context": state.context, "gap": state.gap} if state.context else {}
        if state.adapter is not None:
            known["adapter"] = [state.adapter, self._adapter(state.adapter)]
        number = OUTGROWN if state.context else PLAIN
        from importlib.metadata import version  # noqa: PLC0415 - 40 modules that a start does without

        metadata = {_FORMAT: number, "miaotui.version": version("miaotui"), _STATE: json.dumps(known)}
        metadata |= {_MODEL + name: value for name, value in self.fingerprint.items()}
        names = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
        digest = _begun(metadata, {name: (names[a.dtype], a.shape) for name, a in tensors.items()})
        for name in sorted(tensors):
            digest.update(np.ascontiguousarray(tensors[name]).data)
        data = save(tensors, metadata | {_DIGEST: digest.hexdigest()})
        with new_file(path) as f:
            f.write(data)

    def read(self, path: str | os.PathLike[str], n_context: int) -> SequenceState:
        """The state of a file, checked. Errors: `SequenceFileError`; `InputError` for what is no path."""
        file = as_path(path, "load_sequence")
        if not is_there(file, SequenceFileError):
            msg = f"{file}: there is no such file; Sequence.save writes one"
            raise SequenceFileError(msg)
        regular_size(file, SequenceFileError)
        try:
            header = read_header(file)
        except CheckpointError as e:
            raise _damaged(file, "its header is not that of a safetensors file") from e
        self._check(header)
        try:
            with file.open("rb") as f:
                _check_digest(header, f)
                self._check_model(header)
                return self._state(header, f, n_context)
        except OSError as e:
            msg = f"{file}: cannot be read ({reason(e)}); check the disk and the file's permissions"
            raise SequenceFileError(msg) from e

    def _adapter(self, name: str) -> str:
        """A digest of one adapter: of its factors, and of a sample of its numbers as the model's weights have it."""
        sample = blake2b(digest_size=16)
        for part in self._adapters.parts(name):
            up = "rows" if part.up is None else part.up.shape
            sample.update(f"{product_of(part)} {part.scale!r} {part.down.shape} {up};".encode())
            for weight in weights_in(part):
                for some in _sampled(weight):
                    sample.update(some.data)
        return sample.hexdigest()

    @staticmethod
    def _check(header: Header) -> None:
        """That it is a session file of this format."""
        number = header.metadata.get(_FORMAT)
        if number is None:
            msg = f"{header.file}: is a safetensors file, but Sequence.save did not write it: it has no {_FORMAT}"
            raise SequenceFileError(msg)
        if number not in {PLAIN, OUTGROWN}:
            msg = (
                f"{header.file}: has format {printable(number, 60)}, this version of miaotui reads 1 and 2; "
                "load it with the version that wrote it, or feed the text again"
            )
            raise SequenceFileError(msg)

    def _check_model(self, header: Header) -> None:
        """That this model saved it."""
        mine = self.fingerprint
        theirs = {name: header.metadata.get(_MODEL + name, "nothing") for name in mine}
        for name, what in _DIFFERENT.items():
            if theirs[name] != mine[name]:
                there, here = (printable(side[name]) for side in (theirs, mine))
                msg = (
                    f"{header.file}: {what} (saved: {there}; {self._name} as loaded: {here}); load the model that "
                    "saved it in the same way, or feed the text again"
                )
                raise SequenceFileError(msg)

    def _state(self, header: Header, f: IO[bytes], n_context: int) -> SequenceState:
        known = self._known(header)
        cached, context, wanted = known["cached"], known["context"], {}
        if context and self._program.bounded:
            msg = f"{header.file}: its text may outgrow its context (overflow='window'): {self._program.bounded}"
            raise SequenceFileError(msg)
        most = LONGEST if context else n_context + 1  # the last may stand one past the context
        ids = _ids(header, f, "ids", self._config.n_vocab, most)
        if context != n_context and (known["gap"] or len(ids) > min(context, n_context) + 1) and context:
            raise _other_context(header.file, context, n_context)
        if cached > min(len(ids), LONGEST if context else n_context):
            raise _damaged(header.file, f"{cached} slots of {len(ids)} ids are said to be computed")
        source = None
        if self._config.seq2seq:
            source = _ids(header, f, "source", self._config.encoding.n_vocab, n_context)
        gap = known["gap"]
        if gap not in {gap_of(cached - 1, context), gap_of(cached, context)} or (gap and not cached):
            raise _damaged(header.file, f"gap={gap}: of {cached} tokens in {context} slots others are left out")
        for name, dtype, shape in self._cache(header, cached - gap, outgrown=gap > 0):
            info = header.tensors.get(name)
            if info is None or (_DTYPES.get(info.dtype), info.shape) != (dtype.type, shape):
                has = "none" if info is None else f"{info.dtype} {list(info.shape)}"
                raise _damaged(header.file, f"{name}: expected {dtype} {list(shape)}, found {has}")
            wanted[name] = info
        if more := set(header.tensors) - set(wanted) - {"ids", *(() if source is None else ("source",))}:
            raise _damaged(header.file, f"this model has no {printable(min(more), 60)}")
        cache = {name: _read(f, info) for name, info in wanted.items()}
        shift, seed, adapter = known["shift"], known["seed"], known.get("adapter")
        return SequenceState(ids, source, seed, cached, shift, cache, adapter, context and n_context, gap)

    def _known(self, header: Header) -> dict[str, Any]:
        """What `state` says, each value by itself checked."""
        raw = header.metadata.get(_STATE, "").encode()
        known = parse_json(raw, f"{header.file}: {_STATE}", SequenceFileError)
        names = {"cached", "shift", "seed"}
        more = {"context", "gap"} if header.metadata[_FORMAT] == OUTGROWN else set[str]()
        if not isinstance(known, dict) or set(known) - {"adapter"} != names | more:
            said = f"its state has other keys than {', '.join(sorted(names | more))}, and perhaps adapter"
            raise _damaged(header.file, said)
        for name in more:
            if type(known[name]) is not int or known[name] < (name == "context"):
                raise _damaged(header.file, f"{name}={printable(known[name], 60)} is no count")
        known = {"context": 0, "gap": 0} | known
        cached, shift, seed = (known[name] for name in ("cached", "shift", "seed"))
        if type(cached) is not int or cached < 0:
            raise _damaged(header.file, f"cached={printable(cached, 60)} is no count")
        if type(shift) is not int or shift not in {0, self._program.turning}:
            raise _damaged(header.file, f"shift={printable(shift, 60)}: this model has 0 and {self._program.turning}")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 2**64):
            raise _damaged(header.file, f"seed={printable(seed, 60)} is no seed")
        return known | ({"adapter": self._known_adapter(header, known["adapter"])} if "adapter" in known else {})

    def _known_adapter(self, header: Header, saved: object) -> str:
        """The name of the text's adapter, which this model has too, with the same numbers."""
        if not isinstance(saved, list) or [type(each) for each in saved] != [str, str]:
            raise _damaged(header.file, f"adapter={printable(saved, 60)} is no name and digest")
        name, digest = map(str, saved)
        if name not in self._adapters.names or self._adapter(name) != digest:
            other = "another one of this name" if name in self._adapters.names else "none of this name"
            quoted = printable(name, 60)
            msg = f"{header.file}: its text has the adapter {quoted!r}, and {self._name} as loaded has {other}; "
            msg += "load the model with that adapter, load(adapters={...}), or feed the text again"
            raise SequenceFileError(msg)
        return name

    def _cache(
        self, header: Header, cached: int, *, outgrown: bool
    ) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        """Names, dtypes and shapes of the arrays that this model's cache has in the file, for this many slots."""
        firsts: dict[int, int] = {}
        for layer in cache_layers(self._program) if cached else ():
            if outgrown and self._program.groups[layer.group] is None:
                yield from ((name, dtype, shape) for name, (dtype, shape) in layer.sinks().items())
            names = list(layer.parts(0))
            info, window = header.tensors.get(names[0]), self._program.groups[layer.group]
            slots = info.shape[1] if info is not None and len(info.shape) == len(layer.parts(0)[names[0]][1]) else 0
            first = firsts.setdefault(layer.group, cached - slots)
            seen = 0 if window is None else max(0, cached - window + 1)
            if first != cached - slots or first % PAGE or not 0 <= first <= seen:
                what = f"{names[0]} has {slots} slots of {cached}, of which the next token sees those from {seen} on"
                raise _damaged(header.file, what)
            for name, (dtype, shape) in layer.parts(slots).items():
                yield name, dtype, shape


#: What differs, where a value of the fingerprint does.
_DIFFERENT = {
    "config": "another model saved it: its config is not the same",
    "plan": "a model that was pruned in another way saved it",
    "dtypes": "its model's weights had other dtypes or shapes: see quantize",
    "weights": "a model with other weights saved it",
    "kv_cache": "its KV cache had another dtype: see kv_cache",
    "page": "another version of miaotui saved it, with pages of another size",
    "precision": "its numbers were made in another way: see precision",
}


def _precision(program: Program) -> str:
    """How numbers were made, where it is not told by the weights' dtypes; "exact": as usual."""
    if any(i.variant == FAST for i in program.code):
        return "bf16"
    planes = any(i.variant in PLANES.values() for i in program.code)
    return "exact, of integer matrices too" if planes else "exact"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _whole(weights: Weights) -> Iterator[Weight]:
    """Every matrix once, that of parts which take turns in one as it lies in memory."""
    every = (weight if weight.lies is None else weight.lies.whole for weight in weights)
    yield from {weight.name: weight for weight in every}.values()


def _sampled(weight: Weight) -> Iterator[NDArray[np.uint8]]:
    """Bytes of a weight: all of a small one, or spans of a large one."""
    assert weight.array is not None  # noqa: S101 - a loaded model's
    data = weight.array.reshape(-1).view(np.uint8)
    if data.size <= SPANS * SPAN:
        yield data
        return
    for i in range(SPANS):
        at = (data.size - SPAN) * i // (SPANS - 1)
        yield data[at : at + SPAN]


def _begun(metadata: Mapping[str, str], tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> hashlib.blake2b:
    """The digest before any tensor's bytes, which follow in the order of their names."""
    table = [[name, dtype, list(shape)] for name, (dtype, shape) in sorted(tensors.items())]
    return blake2b(json.dumps([sorted(metadata.items()), table]).encode(), digest_size=32)


def _check_digest(header: Header, f: IO[bytes]) -> None:
    """That everything in the file is as it was written, a block at a time."""
    metadata = dict(header.metadata)
    wanted = metadata.pop(_DIGEST, "")
    digest = _begun(metadata, {name: (t.dtype, t.shape) for name, t in header.tensors.items()})
    for _, info in sorted(header.tensors.items()):
        f.seek(info.start)
        left = info.nbytes
        while left and (block := f.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != wanted:
        raise _damaged(header.file, "its checksum is not that of its contents")


def _ids(header: Header, f: IO[bytes], name: str, n_vocab: int, most: int) -> list[int]:
    """A tensor of ids of a vocabulary, at most this many."""
    info = header.tensors.get(name)
    if info is None or info.dtype != "I64" or len(info.shape) != 1:
        raise _damaged(header.file, f"it has no {name}, I64 of one dimension")
    n = info.shape[0]
    if n > most:
        msg = f"{header.file}: {name} has {n} tokens, more than the context; load the model with max_context={n}"
        raise SequenceFileError(msg)
    try:
        return check_ids(_read(f, info), n_vocab, what=name) if n else []
    except InputError as e:
        raise _damaged(header.file, str(e)) from e


def _read(f: IO[bytes], info: TensorInfo) -> NDArray[Any]:
    """A tensor whose size was checked."""
    out = np.empty(info.shape, _DTYPES[info.dtype])
    f.seek(info.start)
    if f.readinto(out.reshape(-1).view(np.uint8)) != info.nbytes:  # type: ignore[attr-defined]  # a file on the disk
        raise _damaged(info.file, "it became shorter while it was read")
    return out


def _other_context(file: Path, context: int, n_context: int) -> SequenceFileError:
    return SequenceFileError(
        f"{file}: its text outgrew a context of {context} tokens, and goes on in one of the same size alone; this one "
        f"has {n_context}: load the model with max_context={context}"
    )


def _damaged(file: Path, what: str) -> SequenceFileError:
    return SequenceFileError(f"{file}: is damaged, or no file that Sequence.save wrote: {what}; save the text again")

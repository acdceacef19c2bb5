"""A PEFT LoRA adapter: adapter_config.json and adapter_model.safetensors, by what each tensor is to the base model.

| key in the file, after base_model.model. | shape | it is |
|---|---|---|
| MODULE.lora_A.weight, MODULE.lora_B.weight | [r, in], [out, r] | of a matrix, whichever way its file has it |
| MODULE.lora_embedding_A, .lora_embedding_B | [r, rows], [width, r] | of an embedding: turned, B and A of its rows |
| MODULE.lora_magnitude_vector | [out] | of a DoRA adapter: the length of every output's row |
| MODULE.lora_B.bias | [out] | added to the matrix's bias, scaled as B A is |
| MODULE.weight, MODULE.bias | as the base's | in place of the base's (`modules_to_save`, `bias`, embeddings) |
| MODULE.base_layer.weight, .bias | as the base's | the same, of a module that has A and B too |
| MODULE.token_adapter.trainable_tokens_delta | [ids, width] | rows of an embedding (`trainable_token_indices`) |

MODULE is a path in transformers' class: a tensor's name without its ".weight", under any prefix that files of the
family have. A fused module is several roles; each has its own rows of B. Nothing but the header is read here; data are
mapped when they are used, and are checked for NaN then. Format: https://huggingface.co/docs/peft, version 0.21.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CheckpointError
from .adapter_config import ADAPTER_CONFIG, ALL_LINEAR, AdapterConfig, read_adapter_config
from .checkpoint import Checkpoint
from .files import quote
from .header import read_header
from .merge import LowRank, Numbers
from .paths import as_path, is_there, listed
from .pieces import all_rows, rows_in_tensor
from .places import Place, Target, places_of
from .roles import MATRICES, ROLES, role_of
from .sizes import role_axes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

    from .header import TensorInfo
    from .model_tensors import ModelTensors
    from .prune.cut import Cut

__all__ = ["ADAPTER_WEIGHTS", "Adapter", "BiasTerm", "TokenRows", "cut_alike", "read_adapter"]

ADAPTER_WEIGHTS = "adapter_model.safetensors"
FLOATS = ("F32", "F16", "BF16", "F64")
BEFORE = "base_model.model."
#: Ends of keys -> what they are; the longest that fits is it.
ENDS = (
    *(".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_embedding_A", ".lora_embedding_B"),
    *(".lora_magnitude_vector.weight", ".lora_magnitude_vector", ".token_adapter.trainable_tokens_delta"),
    *(".base_layer.weight", ".base_layer.bias", ".weight", ".bias"),
)
EMBEDDINGS = ("embed", "positions", "token_types")


class BiasTerm(NamedTuple):
    """What is added to a matrix's bias, times `scale` (`lora_bias`); `rows` of it, where the module is fused."""

    numbers: Numbers
    scale: float


class TokenRows(NamedTuple):
    """Rows of an embedding in place of the base's: those of `ids`, in this order."""

    ids: tuple[int, ...]
    numbers: Numbers


@dataclass(frozen=True)
class Adapter:
    """An open adapter of one base model. `close` it, or use `with`.

    `low`: A and B by what they are to the model before any cut (`cut_alike`). `whole`: tensors in place of the base's,
    by the base's names. `bias_terms`: by the bias's place. `tokens`: by the embedding's tensor. `unties`: the head is
    the embedding in the base model, and is not with this adapter.
    """

    config: AdapterConfig
    files: Checkpoint
    low: Mapping[Target, LowRank]
    whole: Mapping[str, TensorInfo] = field(default_factory=dict)
    bias_terms: Mapping[Target, BiasTerm] = field(default_factory=dict)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict)
    unties: bool = False

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.files.directory

    def __str__(self) -> str:
        """What it is, in one line."""
        modules = {low.module for low in self.low.values()}
        ranks = sorted({low.rank for low in self.low.values()})
        parts = [f"{'DoRA' if self.config.dora else 'LoRA'} of {len(modules)} modules, rank {_list(ranks)}"]
        parts += [f"{len(self.whole)} tensors in place of the base model's"] if self.whole else []
        parts += [f"{sum(len(t.ids) for t in self.tokens.values())} tokens' rows"] if self.tokens else []
        parts += ["the head is no longer the embedding"] if self.unties else []
        return f"{self.directory.name}: {', '.join(parts)}, {self.files.file_bytes:,} bytes"

    def close(self) -> None:
        """Release the file. Harmless when done twice."""
        self.files.close()

    def __enter__(self) -> Self:
        """`with read_adapter(...) as adapter:` closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def read_adapter(path: str | Path, base: ModelTensors) -> Adapter:
    """The adapter in a directory, compared with its base model: nothing is cut of that yet.

    Errors: `ConfigError` for what adapter_config.json asks for and is not computed, `CheckpointError` for a directory
    that holds no adapter, and for a tensor that is no part of the model, misses another, or has another shape.
    """
    directory = as_path(path, "adapter", CheckpointError)
    _check_directory(directory)
    config = read_adapter_config(directory / ADAPTER_CONFIG)
    files = Checkpoint(directory, {}, None, {ADAPTER_WEIGHTS: read_header(directory / ADAPTER_WEIGHTS)})
    try:
        return _Reader(config, files, base).adapter()
    except BaseException:
        files.close()
        raise


def _check_directory(directory: Path) -> None:
    """It holds an adapter whose weights are safetensors: CheckpointError, with what to give instead."""
    if not (is_there(directory) and directory.is_dir()):
        wanted = f"give one with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        msg = f"adapter: {quote(str(directory), 300)}: no such directory; {wanted}"
        raise CheckpointError(msg)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if is_there(directory / name):
            continue
        why = f"expected a PEFT adapter, a directory with {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}"
        if "adapter_model.bin" in listed(directory):
            why = (
                "adapter_model.bin is pickled, and pickled files are never opened, as that runs their code; save the "
                "adapter with PEFT's save_pretrained(directory, safe_serialization=True)"
            )
        msg = f"adapter: {directory}: no {name}; {why}"
        raise CheckpointError(msg)


class _Reader:
    """Finds what every key of the file is."""

    def __init__(self, config: AdapterConfig, files: Checkpoint, base: ModelTensors) -> None:
        self.config, self.files, self.base = config, files, base
        self.file = files.directory / ADAPTER_WEIGHTS
        self.places = places_of(base)
        self.keys: dict[str, dict[str, str]] = {}  # module -> end -> key
        for key, info in files.tensors.items():
            module, end = self._parsed(key, info)
            ends = self.keys.setdefault(module, {})
            end = end.removesuffix(".weight") if "magnitude" in end else end
            plain = end.replace(".base_layer", "")
            if end in ends or (plain != end and plain in ends):
                raise self._error(key, f"is there twice, the other time as {ends.get(end, ends.get(plain))}")
            ends[end] = key

    def adapter(self) -> Adapter:
        """Every key, placed and checked."""
        low: dict[Target, LowRank] = {}
        whole: dict[str, TensorInfo] = {}
        terms: dict[Target, BiasTerm] = {}
        tokens: dict[str, TokenRows] = {}
        for module, ends in self.keys.items():
            if any("lora" in end for end in ends):
                low.update(self._low_rank(module, ends))
                terms.update(self._bias_term(module, ends))
            for end in (".weight", ".base_layer.weight", ".bias", ".base_layer.bias"):
                if end in ends:
                    whole.update(self._whole(ends[end], module + "." + end.rpartition(".")[2]))
            if ENDS[7] in ends:
                tokens.update(self._tokens(ends[ENDS[7]], module))
        self._check_all_there(low)
        unties = self._unties(low, whole)
        return Adapter(self.config, self.files, low, whole, terms, tokens, unties=unties)

    def _error(self, key: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: tensor {quote(key, 200)} {what}")

    def _of_base(self) -> str:
        made = f", made for {quote(self.config.base)}" if self.config.base else ""
        return f"the {self.base.family.name} model in {self.base.where}; is it the adapter's base{made}?"

    def _parsed(self, key: str, info: TensorInfo) -> tuple[str, str]:
        """The module and what the tensor is to it."""
        end = next((end for end in ENDS if key.endswith(end)), None)
        if not key.startswith(BEFORE) or end is None or ".lora_" in key.removesuffix(end):
            known = ", ".join(f"{BEFORE}MODULE{end}" for end in ENDS[:2])
            raise self._error(key, f"is not understood; expected {known} and so on, as PEFT writes them")
        if info.dtype not in FLOATS:
            raise self._error(key, f"is {info.dtype}; expected one of {', '.join(FLOATS)}")
        return key[len(BEFORE) :].removesuffix(end), end

    def _at(self, key: str, name: str) -> list[Place]:
        """Where the model has a tensor of this name."""
        places = self.places.get(name)
        if not places:
            raise self._error(key, f"is for {quote(name, 200)}, which is no part of {self._of_base()}")
        return places

    def _low_rank(self, module: str, ends: Mapping[str, str]) -> Iterator[tuple[Target, LowRank]]:
        """A and B of a module, for each role that it holds."""
        any_key = next(key for end, key in ends.items() if "lora" in end)
        places = self._at(any_key, f"{module}.weight")
        embedding = role_of(places[0].target.role) in EMBEDDINGS
        pair = (".lora_embedding_A", ".lora_embedding_B") if embedding else (".lora_A.weight", ".lora_B.weight")
        wanted = (*pair, ".lora_magnitude_vector") if self.config.dora else pair
        for end in wanted:
            if end not in ends:
                raise self._error(any_key, f"is there without {BEFORE}{module}{end}; save the adapter again")
        if self.config.dora and embedding:
            raise self._error(any_key, "is of an embedding with use_dora, which is not computed; merge it with PEFT")
        if stray := [end for end in ends if "lora" in end and end not in (*wanted, ".lora_B.bias")]:
            raise self._error(
                ends[stray[0]], "is not expected: adapter_config.json has use_dora false, or another kind"
            )
        tied = self.config.ties and places[0].target.role == "head"
        if not (tied or self.config.is_target(module)):
            why = f"{ADAPTER_CONFIG} does not name this module (target_modules, exclude_modules, layers_to_transform)"
            raise self._error(any_key, f"is there, but {why}")
        a, b = (Numbers(self.files, ends[end]) for end in pair)
        a, b = (replace(b, turned=True), replace(a, turned=True)) if embedding else (a, b)
        m = Numbers(self.files, ends[".lora_magnitude_vector"]) if self.config.dora else None
        rank = self.config.rank(module)
        for place in places:
            role = ROLES[role_of(place.target.role)]
            if role.kind not in ("matrix", "table") or role.name in ("convolution", "biases", "relative", "own_bias"):
                raise self._error(any_key, "is of a module that takes no adapter here; merge it with PEFT")
            self._check_shapes(place, rank, a, b, m)
            low = LowRank(module, rank, self.config.scale(module), a, b, m)
            yield place.target, cut_alike(low, place.of, None, place.target)

    def _check_shapes(self, place: Place, rank: int, a: Numbers, b: Numbers, m: Numbers | None) -> None:
        """Of A and B as they are used, compared with the base's matrix."""
        of, target = place.of, place.target
        n_out, n_in = all_rows(of.config, place.part, target.role, target.layer), of.shape(target.role, target.layer)[1]
        for numbers, shape in ((a, (rank, n_in)), (b, (n_out, rank)), (m, (n_out,))):
            if numbers is not None and numbers.shape != shape:
                there = list(self.files.tensors[numbers.name].shape)
                made = list(shape[::-1] if numbers.turned else shape)
                why = f"rank {rank} and the base's matrix make it {made}"
                raise self._error(numbers.name, f"has shape {there}; {why}, in {self._of_base()}")

    def _bias_term(self, module: str, ends: Mapping[str, str]) -> Iterator[tuple[Target, BiasTerm]]:
        """What is added to the biases of a module's roles."""
        key = ends.get(".lora_B.bias")
        for place in self.places.get(f"{module}.weight", ()) if key is not None else ():
            target = place.target._replace(role=f"{place.target.role}_bias")
            if target.role not in place.of.biases or not place.of.has(target.role, target.layer):
                raise self._error(
                    str(key), "(lora_bias) is added to a bias, which the base model lacks; PEFT cannot merge it either"
                )
            numbers = Numbers(self.files, str(key))
            n_out = all_rows(place.of.config, place.part, place.target.role, target.layer)
            if numbers.shape != (n_out,):
                raise self._error(
                    str(key), f"has shape {list(numbers.shape)}; expected {[n_out]}, in {self._of_base()}"
                )
            yield target, BiasTerm(numbers, self.config.scale(module))

    def _whole(self, key: str, name: str) -> Iterator[tuple[str, TensorInfo]]:
        """A tensor in place of the base's."""
        info = self.files.tensors[key]
        for place in self._at(key, name):
            shape = place.stored_shape
            if info.shape != shape:
                why = f"{list(shape)} in {self._of_base()}"
                grown = place.target.role in ("embed", "head") and info.shape[1:] == shape[1:]
                why += " The adapter has another vocabulary: save the base model resized first" if grown else ""
                raise self._error(key, f"has shape {list(info.shape)}, and what it stands for {why}")
            yield place.tensor, info

    def _tokens(self, key: str, module: str) -> Iterator[tuple[str, TokenRows]]:
        """Rows of an embedding."""
        places = self._at(key, f"{module}.weight")
        own = [ids for name, ids in self.config.tokens.items() if name and f".{module}".endswith(f".{name}")]
        ids = own[0] if own else self.config.tokens.get("")
        n, width = places[0].stored_shape
        if ids is None or (len(ids), width) != self.files.tensors[key].shape or max(ids, default=0) >= n:
            why = f"trainable_token_indices has {0 if ids is None else len(ids)} for it, of {n} rows of {width}"
            raise self._error(key, f"has shape {list(self.files.tensors[key].shape)}; {ADAPTER_CONFIG}: {why}")
        yield places[0].tensor, TokenRows(ids, Numbers(self.files, key))

    def _check_all_there(self, low: Mapping[Target, LowRank]) -> None:
        """Every module that adapter_config.json names has A and B, and there is something in the file at all."""
        if not self.keys:
            msg = f"{self.file}: holds no tensors; save the adapter again"
            raise CheckpointError(msg)
        saved = self.config.saved
        if saved and not any(self.config.is_saved(module) for module in self.keys):
            msg = f"{self.file}: holds no weights of modules_to_save, {', '.join(map(quote, saved))}; save it again"
            raise CheckpointError(msg)
        before = {place.prefix for module in self.keys for place in self.places.get(f"{module}.weight", ())}
        for name, places in self.places.items():
            module, place = name.removesuffix(".weight"), places[0]
            usual = place.prefix in before and name.endswith(".weight") and place.first
            if usual and self._is_asked(module, place) and place.target not in low:
                msg = (
                    f"{self.file}: holds no {BEFORE}{module}.lora_A.weight, and {ADAPTER_CONFIG} (target_modules) "
                    "names this module; the file is incomplete: save the adapter again"
                )
                raise CheckpointError(msg)

    def _is_asked(self, module: str, place: Place) -> bool:
        """Whether the config means this module: a matrix of a layer, or one that it names in full."""
        role = role_of(place.target.role)
        if role not in MATRICES or not ROLES[role].sublayer or self.config.targets == ALL_LINEAR:
            return False
        return self.config.is_target(module)

    def _unties(self, low: Iterable[Target], whole: Iterable[str]) -> bool:
        """Whether embedding and head, one in the base, are two now. CheckpointError: of an encoder-decoder."""
        low, whole, base = set(low), set(whole), self.base
        embeds = {place.tensor for places in self.places.values() for place in places if place.target.role == "embed"}
        touched = {t.role for t in low} & {"embed", "head"} or whole & embeds
        if base.config.seq2seq and touched:
            msg = (
                f"{self.file}: changes the embedding or the head of an encoder-decoder, whose stacks may share them; "
                "this is not computed: merge the adapter with PEFT's merge_and_unload"
            )
            raise CheckpointError(msg)
        heads = {place.tensor for places in self.places.values() for place in places if place.target.role == "head"}
        return base.config.tied and bool(touched or whole & heads)


def cut_alike(low: LowRank, of: ModelTensors, cut: Cut | None, target: Target) -> LowRank:
    """The part of A and B for what a cut keeps of the weight; None: all of it, of a fused module its own rows."""
    part = (of.layer if target.role in of.layer else of.parts)[target.role]
    part = replace(part, stacked="", pieces=()) if part.stacked else part
    config = of.config if cut is None else cut.before
    shape = of.shape(target.role, target.layer)
    kept = [((0, n),) for n in shape]
    if cut is not None:
        kept = [cut.kept(axis, target.layer) for axis in role_axes(config, target.role)]
    rows = rows_in_tensor(config, part, target.role, target.layer, kept[0])
    return replace(low, rows=rows, columns=None if kept[1] == ((0, shape[1]),) else kept[1])

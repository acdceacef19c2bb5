"""What every key of adapter_model.safetensors is to the base model; each is placed and its shape compared."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .adapter_config import ADAPTER_CONFIG, ALL_LINEAR
from .files import quote
from .merge import BiasTerm, LowRank, Numbers, TokenRows, cut_alike
from .pieces import all_rows
from .places import places_of
from .roles import MATRICES, ROLES, role_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .adapter_config import AdapterConfig
    from .checkpoint import Checkpoint
    from .header import TensorInfo
    from .model_tensors import ModelTensors
    from .places import Place, Target

__all__ = ["Keys"]

FLOATS = ("F32", "F16", "BF16", "F64")
BEFORE = "base_model.model."
TOKENS = ".token_adapter.trainable_tokens_delta"
#: Ends of keys; the first that fits is it.
ENDS = (
    *(".lora_A.weight", ".lora_B.weight", ".lora_B.bias", ".lora_embedding_A", ".lora_embedding_B"),
    *(".lora_magnitude_vector.weight", ".lora_magnitude_vector", TOKENS),
    *(".base_layer.weight", ".base_layer.bias", ".weight", ".bias"),
)
#: Roles of which rows are looked up.
EMBEDDINGS = ("embed", "positions", "token_types")
#: Tables and matrices that are no module which PEFT gives A and B, or are made from one in another way.
UNFIT = ("convolution", "biases", "relative", "own_bias")


class Keys:
    """Every key of the file by what it is; comparing them with the base is all that making one does.

    `low`, `whole`, `bias_terms`, `tokens`, `unties`, `skipped`: as in `Adapter`. Errors: `CheckpointError`.
    """

    def __init__(self, config: AdapterConfig, files: Checkpoint, base: ModelTensors) -> None:
        """Of an open file."""
        self.config, self.files, self.base = config, files, base
        self.file = next(iter(files.tensors.values())).file if files.tensors else files.directory
        self.places = places_of(base)
        self.keys: dict[str, dict[str, str]] = {}  # module -> end -> key
        self.skipped: list[str] = []
        for key, info in files.tensors.items():
            module, end = self._parsed(key, info)
            if self._is_unread(f"{module}.{'bias' if end.endswith('.bias') else 'weight'}"):
                self.skipped.append(key)
                continue
            ends = self.keys.setdefault(module, {})
            end = end.removesuffix(".weight") if "magnitude" in end else end
            plain = end.replace(".base_layer", "")
            if end in ends or (plain != end and plain in ends):
                raise self._error(key, f"is there twice, the other time as {ends.get(end, ends.get(plain))}")
            ends[end] = key

        self.low: dict[Target, LowRank] = {}
        self.whole: dict[str, TensorInfo] = {}
        self.bias_terms: dict[Target, BiasTerm] = {}
        self.tokens: dict[str, TokenRows] = {}
        for module, ends in self.keys.items():
            if any("lora" in end for end in ends):
                self.low.update(self._low_rank(module, ends))
                self.bias_terms.update(self._bias_term(module, ends))
            for end in (".weight", ".base_layer.weight", ".bias", ".base_layer.bias"):
                if end in ends:
                    self.whole.update(self._whole(ends[end], module + "." + end.rpartition(".")[2]))
            if TOKENS in ends:
                self.tokens.update(self._tokens(ends[TOKENS], module))
        self._check_all_there()
        self.unties = self._unties()

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

    def _is_unread(self, name: str) -> bool:
        """Whether files of the family have such a tensor of which no weight is made: a pooler's, a part that sees."""
        if name in self.places:
            return False
        family = self.base.family
        bare = (name.removeprefix(prefix) for prefix in ("", self.base.prefix, *family.prefixes))
        around = family.around is not None and re.fullmatch(family.around.skipped, name) is not None
        return around or any(re.fullmatch(pattern, n) for n in bare for pattern in family.ignored)

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
            raise self._error(ends[stray[0]], "is not expected: use_dora is false, or the module of another kind")
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
            if role.kind not in ("matrix", "table") or role.name in UNFIT:
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

    def _check_all_there(self) -> None:
        """Every module that adapter_config.json names has A and B, and there is something in the file at all."""
        if not (self.keys or self.skipped):
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
            if usual and self._is_asked(module, place) and place.target not in self.low:
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

    def _unties(self) -> bool:
        """Whether embedding and head, one in the base, are two now. CheckpointError: of an encoder-decoder."""
        whole, base = set(self.whole), self.base
        embeds = {place.tensor for places in self.places.values() for place in places if place.target.role == "embed"}
        touched = {target.role for target in self.low} & {"embed", "head"} or whole & embeds
        if base.config.seq2seq and touched:
            msg = (
                f"{self.file}: changes the embedding or the head of an encoder-decoder, whose stacks may share them; "
                "this is not computed: merge the adapter with PEFT's merge_and_unload"
            )
            raise CheckpointError(msg)
        heads = {place.tensor for places in self.places.values() for place in places if place.target.role == "head"}
        return base.config.tied and bool(touched or whole & heads)

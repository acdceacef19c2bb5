"""What a family is: tables of its keys and tensors, and one short function from checked values to a `Config`.

A key of `config.json` is one of four: in `keys` (read and checked), in `only` (refused unless at a value that changes
nothing), ignored (in `ignored.py`, or in the family's own `harmless`), or unknown: refused by name unless null.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ...errors import ConfigError
from ..files import quote
from ..roles import ROLES
from .ignored import IGNORED, PATTERN
from .values import Key, read

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ...runtime.spec import Attention, Config
    from .around import Around

__all__ = ["Family", "Folded", "Part", "Resolved", "layer_type", "piece_name", "resolve_with", "shared_numbers"]


Folded = Literal["", "row", "number", "heads", "taps"]
#: Endings of the names of classes that put a product on a decoder (`heads.as_classifier`).
SCORED = ("ForSequenceClassification", "ForTokenClassification")
#: What a LayerNorm's vectors were called in checkpoints made from TensorFlow (bert-base-uncased).
OLDER = {"weight": "gamma", "bias": "beta"}


@dataclass(frozen=True)
class Part:
    """Where a weight lies: a tensor's name (`{i}` is the layer), or a piece of its outputs.

    A name with `{h}` is one of each head's: the weight is a vector, of which each of these tensors holds a head's part.

    `pieces`: the roles whose weights the tensor holds, in order, its own among them; `by_head`: those of each
    key/value head together (`loader/pieces.py`). `transposed`: the file stores [in, out], and a piece is columns.
    `plus`: what is added to every number; `softplus`: log(1 + e^x) of it is the weight. `folded`: how the file stores a
    vector [n] where not as it is: "row" [1, n], "number" [] of n = 1, "heads" [n / d_head, d_head]; or a convolution's
    matrix [out, in * taps]: "taps" [out, in, taps].
    """

    name: str
    pieces: tuple[str, ...] = ()
    by_head: bool = False
    transposed: bool = False
    plus: float = 0.0
    outside: bool = False  # of the prefix: a head's, as a rule
    untied: str = ""  # its name in a file whose head is not the embedding, where that has one
    others: tuple[str, ...] = ()  # names under which the same tensor may lie instead
    start: int = 0  # the first layer that has it
    optional: bool = False  # a file may lack it: a bias of zeros, a table that a formula gives
    folded: Folded = ""
    softplus: bool = False
    stacked: str = ""  # instead: one tensor [experts, out, in] of every expert ({e} in `name`), perhaps in `pieces`

    @property
    def each_head(self) -> bool:
        """Whether every head's part of the vector is a tensor of its own."""
        return "{h}" in self.name

    @property
    def in_stack(self) -> bool:
        """Whether this is that tensor, in full."""
        return bool(self.stacked) and self.name == self.stacked

    def tensor(self, prefix: str, number: int, names: Collection[str], *, tied: bool, expert: int = 0) -> str:
        """Its name in full, in a file of these `names`."""
        before = "" if self.outside else prefix
        if self.untied and not tied and before + self.untied in names:
            return before + self.untied
        every = [name.replace("{i}", str(number)).replace("{e}", str(expert)) for name in self.spellings(prefix)]
        return next((name for name in every if name in names), every[0])

    def spellings(self, prefix: str) -> list[str]:
        """Every name under which it may lie, in the order in which they are tried; `{i}` stands for the layer."""
        names = (self.name, *self.others, *([self.stacked] if self.stacked else []))
        every = [("" if self.outside else prefix) + name for name in names]
        stem, _, last = every[0].rpartition(".")
        return [*every, f"{stem}.{OLDER[last]}"] if stem.endswith("LayerNorm") else every


def layer_type(window: int | None) -> str:
    """What `layer_types` of a config.json says of a layer."""
    return "full_attention" if window is None else "sliding_attention"


def piece_name(name: str, role: str) -> str:
    """Name of a fused tensor's piece that stands alone, outputs first: what `miaotui quantize` makes of it."""
    return f"{name}.{role}"


#: Where the product of a decoder's class with a head lies, in every family.
SCORES: dict[str, dict[str, Part]] = {
    "classes": {"classifier": Part("score.weight", outside=True)},
    "token_classes": {
        "classifier": Part("score.weight", outside=True, others=("classifier.weight",)),
        "classifier_bias": Part("score.bias", outside=True, others=("classifier.bias",)),
    },
}


@dataclass(frozen=True)
class Resolved:
    """A `Config`, and the biases that its weights have: names of `roles.ROLES`.

    `numbers`: of each layer, the number in its tensors' names, where layers share weights (ALBERT); None: its own.
    `own`: roles that lie elsewhere in this model than its family's tables say; None: it lacks one.
    """

    config: Config
    biases: frozenset[str]
    numbers: tuple[int, ...] | None = None
    own: Mapping[str, Part | None] = field(default_factory=dict)

    def placed(self, table: Mapping[str, Part]) -> dict[str, Part]:
        """A family's table of its model's or of a layer's weights, as this model has it."""
        of_layer = any(ROLES[role].sublayer for role in table)
        mine = {role: part for role, part in self.own.items() if bool(ROLES[role].sublayer) == of_layer}
        return {role: part for role, part in {**table, **mine}.items() if part is not None}


def shared_numbers(n_layers: int, n_groups: int) -> tuple[int, ...]:
    """Which of `n_groups` layers' weights each layer has, as transformers divides them (ALBERT)."""
    return tuple(int(i / (n_layers / n_groups)) for i in range(n_layers))


@dataclass(frozen=True)
class Family:
    """One family's spellings. `resolve` gets every key of `keys`, checked, and the file's name for its errors.

    `spelling`: sizes of `Config` -> keys of config.json; without "d_head" where the width is divided by the heads.
    `prefixes` are tried in order before every tensor's name but the head's; `ignored` are patterns of whole names,
    prefix removed, of tensors that checkpoints carry and that no weight is made from. `bias_keys`: kind of sublayer ->
    the key of config.json that says whether all of its matrices have biases, where there is one. `names_pruned_heads`:
    config.json may have `pruned_heads`. `heads_divide_width`: transformers builds no model whose width is not a
    multiple of its heads. `written_as`: keys of the config.json of what is left of a pruned model, which another
    family's names describe; None takes a key away. `architectures`: endings of the names of classes that are read.
    `heads`: kind of a head over whole texts -> where its weights lie. `groups`: the key that says how many layers'
    weights there are, of which each serves as many layers as another. `spell_experts`: of every layer whether it has
    experts -> keys of config.json that say so. `synonyms`: another name of a key in `spelling` -> the key, which is
    written. `spell_layers`: every layer's attention -> keys of config.json that tell them apart, where that is not
    `layer_types` alone. `encoder`, `encoder_layer`: of an encoder-decoder, where its encoder's weights lie; `model` and
    `layer` are then the decoder's, and `spelling` is; `encoder_spelling`: where the encoder's sizes have other keys.
    `told`: roles that a model may lack -> whether its config has them.
    `tokenizer_class`: that of transformers where no file names one and it is not the file's own. `around`: checkpoints
    that hold its model among others. `encoder_alone`: transformers' class for the encoder without a decoder.
    """

    name: str
    keys: Mapping[str, Key]
    resolve: Callable[[dict[str, Any], str], Resolved]
    model: Mapping[str, Part]
    layer: Mapping[str, Part]
    prefixes: tuple[str, ...]
    spelling: Mapping[str, str]
    ignored: tuple[str, ...] = ()
    only: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    bias_keys: Mapping[str, str] = field(default_factory=dict)
    names_pruned_heads: bool = False
    heads_divide_width: bool = False
    written_as: Mapping[str, object] = field(default_factory=dict)
    tokenizer_class: str | None = None
    architectures: tuple[str, ...] = ("ForCausalLM", "LMHeadModel", "Model", *SCORED)
    heads: Mapping[str, Mapping[str, Part]] = field(default_factory=lambda: SCORES)
    groups: str = ""
    spell_layers: Callable[[Sequence[Attention]], dict[str, Any]] | None = None
    told: Mapping[str, Callable[[Config], bool]] = field(default_factory=dict)
    spell_experts: Callable[[Sequence[bool]], dict[str, Any]] | None = None
    synonyms: Mapping[str, str] = field(default_factory=dict)
    encoder: Mapping[str, Part] = field(default_factory=dict)
    encoder_layer: Mapping[str, Part] = field(default_factory=dict)
    encoder_spelling: Mapping[str, str] = field(default_factory=dict)
    around: Around | None = None
    encoder_alone: str = ""

    def spelled(self, config: Config) -> Mapping[str, str]:
        """Sizes of `config.stack` -> keys of config.json."""
        return {**self.spelling, **self.encoder_spelling} if self._reads(config) else self.spelling

    def parts(self, config: Config) -> Mapping[str, Part]:
        """Where the model's own weights lie, those of its head among them."""
        model = self.encoder if self._reads(config) else self.model
        return model if config.head is None else {**model, **self.heads[config.head.kind]}

    def layers(self, config: Config) -> Mapping[str, Part]:
        """Where a layer's weights lie."""
        return self.encoder_layer if self._reads(config) else self.layer

    def _reads(self, config: Config) -> bool:
        """Whether `config` is the encoder of an encoder-decoder (`Config.encoding`)."""
        return bool(self.encoder) and config.decoder is None

    def starts(self, role: str, layer: int) -> bool:
        """Whether a layer has what a layer's role names, as far as its number tells."""
        return role not in self.layer or layer >= self.layer[role].start

    def prefix_in(self, names: Collection[str]) -> str:
        """Take the first prefix under which anything is found; the first of all if none is."""
        for prefix in (*(self.around.prefixes if self.around else ()), *self.prefixes):
            if prefix and any(name.startswith(prefix) for name in names):
                return prefix
        bare = "" in self.prefixes and any(part.name in names for part in self.model.values() if not part.outside)
        return "" if bare else self.prefixes[0]


#: Refused unless at one of these values, whatever the family: each would change what is computed.
ONLY: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "tie_encoder_decoder": (False,),
    "pretraining_tp": (1,),
    "use_bfloat16": (False,),
}


def resolve_with(family: Family, raw: Mapping[str, object], where: str) -> Resolved:
    """Check every key of the file against the family's tables, then resolve; raises `ConfigError`."""
    only = {**ONLY, **family.only}
    ignored = IGNORED | family.harmless
    for name, value in raw.items():
        known = name in family.keys or name in ignored or PATTERN.fullmatch(name)
        if known and name not in family.only:
            continue
        if name in only:
            if value is not None and value not in only[name]:
                wanted = " or ".join(map(repr, only[name]))
                msg = f"{where}: {name} is {quote(value)}; the {family.name} family is computed with {wanted} only"
                raise ConfigError(msg)
        elif value is not None:
            msg = (
                f"{where}: unknown key {quote(name)} ({quote(value)}) in a {family.name} model; it may change what "
                "is computed, so it is refused. If it changes nothing, remove it from the file"
            )
            raise ConfigError(msg)
    _check_architectures(raw.get("architectures"), family, where)
    return family.resolve(read(raw, family.keys, where), where)


def _check_architectures(value: object, family: Family, where: str) -> None:
    """Refuse a class whose output is none that we compute."""
    names = value if isinstance(value, list) else []
    if names and not any(isinstance(n, str) and n.endswith(family.architectures) for n in names):
        kinds = ", ".join(f"...{ending}" for ending in family.architectures)
        msg = f"{where}: architectures is {quote(value)}; of a {family.name} model, expected one of {kinds}"
        raise ConfigError(msg)

"""adapter_config.json of a PEFT LoRA adapter: which modules it is for, and by how much each counts.

A module's name is its path in transformers' class, "model.layers.0.self_attn.q_proj". What PEFT 0.21.2 does with each
key is followed (`check_target_module_exists`, `get_pattern_key`); a key that could change the maths and is not
understood is refused by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from ..dataclass import dataclass
from ..errors import ConfigError
from .expressions import MOST_STEPS, steps_of, takes_long
from .families.values import Key, Unfit, flag, names, number, optional, read, size
from .files import quote, read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

__all__ = ["ADAPTER_CONFIG", "AdapterConfig", "read_adapter_config"]

ADAPTER_CONFIG = "adapter_config.json"
MAX_FILE = 16_000_000
#: Of a pattern in the file: more is no name of modules.
MAX_PATTERN = 4096
#: Steps that a pattern may take for one module's name: a model has hundreds of them.
MOST_OF_A_NAME = 2**20
#: Of a list or a table in the file; every module of a model may stand in it.
MAX_ENTRIES = 2**14
ALL_LINEAR = "all-linear"

#: Of training, of how A and B began, of where it ran.
HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode",
    "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
})  # fmt: skip
#: What else there is, and is not computed: refused unless it is off.
OTHER = {
    "alora_invocation_tokens": "an adapter that begins at certain tokens",
    "arrow_config": "a choice among several adapters",
    "kasa_config": "KaSA",
    "layer_replication": "layers that are repeated: prune='{\"order\": ...}' repeats layers, but for a plain adapter",
    "megatron_config": "Megatron's parallel layers",
    "monteclora_config": "MonteCLoRA",
    "target_parameters": "parameters that are no module of their own, such as the experts in a stack",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QA-LoRA",
    "velora_config": "VeLoRA",
}
#: Ways to begin that also change the base model's weights.
REWRITES = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class AdapterConfig:
    """What the file says, checked. `targets`, `excluded`: one pattern for whole names, or ends of names.

    `layers`: numbers of those that it is for, None for all; `layer_patterns`: what stands before the number.
    `saved`: modules of which the file holds whole weights. `tokens`: module -> rows of an embedding; "" for the
    embedding of the tokens. `ties`: a head that is the embedding has the embedding's A and B, under its own name.
    """

    file: Path
    r: int
    alpha: float
    rslora: bool
    dora: bool
    ranks: tuple[tuple[re.Pattern[str], int], ...]
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    targets: str | frozenset[str] | None
    excluded: str | frozenset[str]
    layers: frozenset[int] | None
    layer_patterns: tuple[str, ...]
    saved: tuple[str, ...]
    ties: bool
    tokens: Mapping[str, tuple[int, ...]]
    base: str

    def is_target(self, module: str) -> bool:
        """Whether the adapter has A and B for this module."""
        if _matches(self.excluded, module) or self.is_saved(module) or self.targets is None:
            return False
        if not _matches(self.targets, module):
            return False
        return isinstance(self.targets, str) or module in self.targets or self._is_chosen(module)

    def _is_chosen(self, module: str) -> bool:
        """Whether its layer's number is among those named, where any are."""
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layer_patterns] or [r".*?\.[^.]*\.(\d+)\."]
        match = next((m for pattern in patterns if (m := re.match(pattern, module))), None)
        return match is not None and int(match[1]) in self.layers

    def is_saved(self, module: str) -> bool:
        """Whether the file has its weight whole (`modules_to_save`)."""
        return any(f".{name}." in f".{module}." for name in self.saved)

    def rank(self, module: str) -> int:
        """Rows of its A."""
        return _by_pattern(self.ranks, module, self.r)

    def scale(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) (rank-stabilised, arXiv:2312.03732)."""
        r, alpha = self.rank(module), _by_pattern(self.alphas, module, self.alpha)
        return float(alpha / (r**0.5 if self.rslora else r))


def _by_pattern(patterns: tuple[tuple[re.Pattern[str], T], ...], module: str, usual: T) -> T:
    """The value of the first pattern that is an end of the module's name."""
    return next((value for pattern, value in patterns if pattern.match(module)), usual)


def _matches(wanted: str | frozenset[str], module: str) -> bool:
    """A text is a pattern of the whole name; of a list, an entry is the name or the end of it after a dot."""
    if isinstance(wanted, str):
        return bool(wanted) and (wanted == ALL_LINEAR or re.fullmatch(wanted, module) is not None)
    parts = module.split(".")
    return any(".".join(parts[i:]) in wanted for i in range(len(parts)))


def _pattern(value: str) -> str:
    """Pass a regular expression that is one, and that no name makes run for ever."""
    if len(value) > MAX_PATTERN:
        msg = f"a pattern of at most {MAX_PATTERN} characters"
        raise Unfit(msg)
    if takes_long(value) or steps_of(value) > MOST_OF_A_NAME:
        msg = (
            "a pattern without many repetitions in a row, and without a repeated group that repeats or chooses inside, "
            "which may take for ever to match"
        )
        raise Unfit(msg)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as e:
        msg = f"a regular expression ({e})"
        raise Unfit(msg) from None
    return value


def _names(value: object) -> tuple[str, ...]:
    """Pass a list of names, or null (none)."""
    if isinstance(value, list) and len(value) > MAX_ENTRIES:
        msg = f"a list of at most {MAX_ENTRIES} names"
        raise Unfit(msg)
    return names(value)


def _targets(value: object) -> str | frozenset[str]:
    """Pass one pattern, or a list of names."""
    return _pattern(value) if isinstance(value, str) else frozenset(_names(value))


def _layers(value: object) -> frozenset[int] | None:
    """Pass a layer's number, or a list of them; null or an empty list is every layer."""
    numbers = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int for i in numbers):
        msg = "a layer's number, a list of them, or null"
        raise Unfit(msg)
    return frozenset(numbers) or None


def _patterns(value: object) -> tuple[str, ...]:
    """Pass a text, a list of them, or null."""
    return tuple(_pattern(text) for text in names([value] if isinstance(value, str) and value else value or None))


def _table(check: Any) -> Any:  # noqa: ANN401 - checkers of JSON
    """Make a checker of an object of patterns."""

    def table(value: object) -> tuple[tuple[re.Pattern[str], Any], ...]:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
            msg = f"an object that maps at most {MAX_ENTRIES} patterns of modules' names to numbers"
            raise Unfit(msg)
        if sum(steps_of(_pattern(key)) for key in value) > MOST_STEPS:
            msg = "patterns that together have fewer repetitions, as they may take for ever to match"
            raise Unfit(msg)
        return tuple((re.compile(rf"(.*\.)?({key})$"), check(of)) for key, of in value.items())

    return table


def _tokens(value: object) -> dict[str, tuple[int, ...]]:
    """Pass a list of token ids, or an object of module -> such a list."""
    table: dict[str, Any] = value if isinstance(value, dict) else {} if value is None else {"": value}
    for ids in table.values():
        if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids) or len(set(ids)) < len(ids):
            msg = "a list of token ids, each once, an object of such lists, or null"
            raise Unfit(msg)
    return {name: tuple(ids) for name, ids in table.items()}


def _bias(value: object) -> str:
    if value not in ("none", "all", "lora_only"):
        msg = "none, all or lora_only"
        raise Unfit(msg)
    return str(value)


def _initial(value: object) -> object:
    """Refuse an adapter whose A and B belong to a base model that PEFT changed when it made them."""
    if isinstance(value, str) and value.lower().startswith(REWRITES):
        msg = (
            "true: PEFT changed the base model's weights when this adapter began, and A and B fit only those. Save it "
            "with path_initial_model_for_weight_conversion, or load the changed base model and write true here"
        )
        raise Unfit(msg)
    return value


ALPHA = number(0, 2.0**40)
KEYS: dict[str, Key] = {
    "r": Key(8, size(2**20)),
    "lora_alpha": Key(8.0, ALPHA),
    "use_rslora": Key(default=False, check=flag),
    "use_dora": Key(default=False, check=flag),
    "rank_pattern": Key((), optional(_table(size(2**20)))),
    "alpha_pattern": Key((), optional(_table(ALPHA))),
    "target_modules": Key(None, optional(_targets)),
    "exclude_modules": Key(frozenset(), _targets),
    "layers_to_transform": Key(None, _layers),
    "layers_pattern": Key((), _patterns),
    "modules_to_save": Key((), _names),
    "trainable_token_indices": Key({}, _tokens),
    "ensure_weight_tying": Key(default=False, check=flag),
    "fan_in_fan_out": Key(default=False, check=flag),  # A and B are [r, in] and [out, r] either way
    "bias": Key("none", _bias),  # the file's tensors say which
    "lora_bias": Key(default=False, check=flag),  # as above
    "init_lora_weights": Key(default=True, check=_initial),
}


def read_adapter_config(file: Path) -> AdapterConfig:
    """The file, checked. Errors: `ConfigError`, which names the key."""
    raw = read_json_object(file, MAX_FILE, ConfigError)
    _refuse_others(raw, file)
    v = read(raw, KEYS, str(file))
    base = raw.get("base_model_name_or_path")
    return AdapterConfig(
        file,
        r=v["r"],
        alpha=v["lora_alpha"],
        rslora=v["use_rslora"],
        dora=v["use_dora"],
        ranks=v["rank_pattern"] or (),
        alphas=v["alpha_pattern"] or (),
        targets=v["target_modules"],
        excluded=v["exclude_modules"],
        layers=v["layers_to_transform"],
        layer_patterns=v["layers_pattern"],
        saved=v["modules_to_save"],
        ties=v["ensure_weight_tying"],
        tokens=v["trainable_token_indices"],
        base=base if isinstance(base, str) else "",
    )


def _refuse_others(raw: Mapping[str, object], file: Path) -> None:
    """Another kind of adapter, and keys that are not understood: ConfigError."""
    kind = raw.get("peft_type")
    if kind != "LORA":
        msg = (
            f"{file}: peft_type is {quote(kind)}; expected 'LORA'. Other kinds are not computed: merge this one with "
            "PEFT's merge_and_unload, where it has that, and load what save_pretrained then writes"
        )
        raise ConfigError(msg)
    for name, value in raw.items():
        off: Sequence[object] = (None, False, [], {})
        if name in {*KEYS, *HARMLESS, "peft_type"} or any(value is o or value == o for o in off if value is not True):
            continue
        if name in OTHER:
            msg = f"{file}: {name} is {quote(value)}: {OTHER[name]}. It is not computed; merge the adapter with PEFT"
        else:
            msg = (
                f"{file}: unknown key {quote(name)} ({quote(value)}); it may change what is computed, so it is "
                "refused. If it changes nothing, remove it from the file"
            )
        raise ConfigError(msg)

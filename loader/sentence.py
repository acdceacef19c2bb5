"""How a directory turns tokens into a vector for a text, as sentence-transformers writes it down.

| file | what it says |
|---|---|
| modules.json | the steps after the Transformer, in order: Pooling, then Dense, Normalize; another is refused by name |
| 1_Pooling/config.json | how: cls, mean, max, lasttoken, weightedmean; several are put side by side (keys or names) |
| 2_Dense/config.json | a product of the pooled vector, and an activation (`dense.py`); there may be several |
| sentence_bert_config.json, or an older name | max_seq_length: tokens of a text, special ones too; do_lower_case |
| tokenizer_config.json | model_max_length: the same where no max_seq_length is said (as of sentence-transformers 6) |
| config_sentence_transformers.json | prompts, put before a text; truncate_dim; how vectors are compared |

Without modules.json a text's vector is the mean of its tokens', as sentence-transformers takes it.
"""

from __future__ import annotations

import sys
from dataclasses import field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..dataclass import dataclass
from ..errors import CheckpointError, ConfigError
from ..runtime.spec import SIMILARITIES
from .checkpoint import MODULES
from .dense import act_of, read_dense
from .files import parse_json, quote, read_bytes, read_json_object
from .paths import is_there

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..runtime.spec import Act, Dense

__all__ = ["MODES", "Sentence", "pair_activation", "read_sentence"]

PROMPTS, TOKENIZER = "config_sentence_transformers.json", "tokenizer_config.json"
#: Names of the file that says how long a text may be; the first that is there and says something counts.
LIMITS = (
    *("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json"),
    *("sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json"),
    "sentence_xlnet_config.json",
)
MAX_FILE, MAX_TOKENIZER = 1_000_000, 16_000_000
#: What sentence-transformers takes as true where a file that names other modes lacks it.
USUAL_MODE = "pooling_mode_mean_tokens"
#: The keys of 1_Pooling/config.json, in the order in which sentence-transformers puts what they give side by side.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: What `pooling_mode` calls them.
NAMED = {("mean_sqrt_len_tokens" if mode == "mean_sqrt_len" else mode): key for key, mode in MODES.items()}


@dataclass(frozen=True)
class Sentence:
    """`modes`: kinds of pooling, side by side; `steps`: what follows it, None: to length 1; `width`: of the vectors.

    `max_tokens`: of a text, None: the model's; `include_prompt`: a prompt's tokens are pooled too; `lower`: texts are
    put into lower case first; `said`: there is a modules.json; `truncate_dim`: dimensions that are kept, None: all;
    `similarity`: how vectors are compared.
    """

    width: int
    modes: tuple[str, ...] = ("mean",)
    steps: tuple[Dense | None, ...] = ()
    said: bool = False
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    lower: bool = False
    truncate_dim: int | None = None
    similarity: str = "cosine"


def read_sentence(directory: Path, d_model: int) -> Sentence:
    """What the directory says. Errors: `ConfigError` for files that contradict each other, or ask for other steps."""
    steps = _steps(directory)
    kinds = [kind for kind, _ in steps]
    pooling = [path for kind, path in steps if kind == "Pooling"]
    other = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Dense", "Normalize")]
    if other or len(pooling) > 1:
        what = quote(other[0]) if other else "a second Pooling"
        msg = f"{directory / MODULES}: {what} among its steps; one Pooling, and Dense and Normalize, are computed"
        raise ConfigError(msg)
    if steps and not pooling:
        msg = (
            f"{directory / MODULES}: no Pooling among its steps ({', '.join(dict.fromkeys(kinds))}), so that a text "
            "has no vector of its own; expected one after the Transformer"
        )
        raise ConfigError(msg)
    at = kinds.index("Pooling") if pooling else 0
    early = [kind for kind in kinds[:at] if kind != "Transformer"]
    if early:
        msg = f"{directory / MODULES}: {early[0]} before Pooling, of each token's vector; it is computed after it only"
        raise ConfigError(msg)
    modes, include = _pooling(directory / pooling[0] / "config.json", d_model) if pooling else (("mean",), True)
    after, width = _after(directory, steps[at + 1 :], len(modes) * d_model)
    length, lower = _limits(directory)
    prompts, default = _prompts(directory / PROMPTS)
    first, alike = _compared(directory / PROMPTS)
    return Sentence(width, modes, after, bool(steps), length, prompts, default, include, lower, first, alike)


def _limits(directory: Path) -> tuple[int | None, bool]:
    """Tokens of a text, if that is said, and whether texts are put into lower case."""
    file, limits = next(
        ((directory / name, said) for name in LIMITS if (said := _object(directory / name))),
        (directory / LIMITS[0], {}),
    )
    length, lower = limits.get("max_seq_length"), limits.get("do_lower_case")
    if length is not None and (type(length) is not int or length < 1):
        msg = f"{file}: max_seq_length is {quote(length)}; expected a whole number of at least 1"
        raise ConfigError(msg)
    if lower is not None and not isinstance(lower, bool):
        msg = f"{file}: do_lower_case is {quote(lower)}; expected true or false"
        raise ConfigError(msg)
    if length is None:  # transformers writes 1e30 where nothing limits a text
        file = directory / TOKENIZER
        length = _object(file, MAX_TOKENIZER).get("model_max_length")
        if length is not None and (type(length) not in {int, float} or not length >= 1):
            msg = f"{file}: model_max_length is {quote(length)}; expected a number of at least 1"
            raise ConfigError(msg)
    return None if length is None else int(min(length, sys.maxsize)), lower is True


def _after(directory: Path, steps: list[tuple[str, str]], width: int) -> tuple[tuple[Dense | None, ...], int]:
    """What follows pooling, and the width of what comes out of it."""
    after: list[Dense | None] = []
    for kind, path in steps:
        if kind == "Dense":
            after.append(read_dense(directory / path, width))
            width = after[-1].width if after[-1] else width
        elif kind == "Normalize":
            after.append(None)
    return tuple(after), width


def _steps(directory: Path) -> list[tuple[str, str]]:
    """(class, folder) of each step; none without modules.json."""
    file = directory / MODULES
    if not is_there(file, CheckpointError):
        return []
    value = parse_json(read_bytes(file, MAX_FILE, ConfigError), str(file), ConfigError)
    steps = []
    for each in value if isinstance(value, list) else [None]:
        kind, path = (each.get("type"), each.get("path")) if isinstance(each, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or not _inside(path):
            msg = f"{file}: expected a list of objects with type and path, a folder here; one is {quote(each)}"
            raise ConfigError(msg)
        steps.append((kind.rpartition(".")[2], path))
    return steps


def _inside(path: str) -> bool:
    """A folder of the directory, or the directory itself."""
    parts = PurePosixPath(path)
    return not parts.is_absolute() and ".." not in parts.parts and "\0" not in path


def _object(file: Path, most: int = MAX_FILE) -> dict[str, Any]:
    return read_json_object(file, most, ConfigError) if is_there(file, CheckpointError) else {}


def _pooling(file: Path, d_model: int) -> tuple[tuple[str, ...], bool]:
    """The modes, and whether a prompt's tokens count."""
    said = read_json_object(file, MAX_FILE, ConfigError)
    named = said.pop("pooling_mode", None)
    if named is not None:  # the keys of before count no longer where both are there
        said = {key: value for key, value in said.items() if key not in MODES} | _named(named, file)
    size = "embedding_dimension" if "embedding_dimension" in said else "word_embedding_dimension"
    width, include = said.get(size, d_model), said.get("include_prompt", True)
    unknown = [key for key in said if key.startswith("pooling_mode") and key not in MODES]
    wrong = [key for key in MODES if not isinstance(said.get(key, False), bool)]
    if named is None and any(key in said for key in MODES):  # the mean is pooled there unless denied
        said = {USUAL_MODE: True} | said
    modes = tuple(MODES[key] for key in (MODES if named is None else said) if key in MODES and said.get(key) is True)
    if width != d_model:
        msg = f"{file}: {size} is {quote(width)}, the model's hidden_size {d_model}"
    elif unknown or wrong:
        key = (unknown or wrong)[0]
        msg = f"{file}: {quote(key)} is {quote(said[key])}; expected true or false for one of {', '.join(MODES)}"
    elif not modes:
        msg = f"{file}: no pooling_mode is true; expected one of {', '.join(MODES)}"
    elif not isinstance(include, bool):
        msg = f"{file}: include_prompt is {quote(include)}; expected true or false"
    else:
        return modes, include
    raise ConfigError(msg)


def _named(named: object, file: Path) -> dict[str, bool]:
    """The names of `pooling_mode`, one or several in their order, as the keys that say the same."""
    names: list[Any] = named if isinstance(named, list) else [named]
    wrong = [name for name in names or [named] if not isinstance(name, str) or name not in NAMED]
    if wrong or len(set(names)) < len(names):
        what = quote(wrong[0]) if wrong else "a name twice"
        msg = f"{file}: pooling_mode has {what}; expected one or several of {', '.join(NAMED)}"
        raise ConfigError(msg)
    return {NAMED[name]: True for name in names}


def _prompts(file: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default."""
    said = _object(file)
    prompts, default = said.get("prompts") or {}, said.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(v, str) for v in prompts.values()):
        msg = f"{file}: prompts is {quote(prompts)}; expected texts by name"
        raise ConfigError(msg)
    if default is not None and (not isinstance(default, str) or default not in prompts):
        msg = f"{file}: default_prompt_name is {quote(default)}; expected a name in prompts: {quote(list(prompts))}"
        raise ConfigError(msg)
    return prompts, default


def _compared(file: Path) -> tuple[int | None, str]:
    """Dimensions that are kept, and how vectors are compared: by a name that may not be one of `SIMILARITIES`."""
    said = _object(file)
    first, name = said.get("truncate_dim"), said.get("similarity_fn_name")
    if first is not None and (type(first) is not int or first < 1):
        msg = f"{file}: truncate_dim is {quote(first)}; expected a whole number of at least 1"
        raise ConfigError(msg)
    if name is not None and not isinstance(name, str):
        msg = f"{file}: similarity_fn_name is {quote(name)}; expected a text such as {', '.join(SIMILARITIES)}"
        raise ConfigError(msg)
    return first, name or "cosine"


def pair_activation(config: Mapping[str, Any], where: str, n_labels: int) -> Act:
    """What the logits of a pair of texts go through, as config.json says, in the words of now or of before.

    Errors: `ConfigError` for a function that we do not compute.
    """
    own = config.get("sentence_transformers")
    if own is not None and not isinstance(own, dict):
        msg = f"{where}: sentence_transformers is {quote(own)}; expected an object"
        raise ConfigError(msg)
    if own and own.get("activation_fn") is not None:
        return act_of(own["activation_fn"], "sentence_transformers.activation_fn", where)
    older = config.get("sbert_ce_default_activation_function")
    if older is not None:
        return act_of(older, "sbert_ce_default_activation_function", where)
    return "sigmoid" if n_labels == 1 else "identity"

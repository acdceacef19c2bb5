"""How a directory turns tokens into a vector for a text, as sentence-transformers writes it down.

| file | what it says |
|---|---|
| modules.json | the steps after the Transformer, in order: Pooling, Normalize; another is refused by name |
| 1_Pooling/config.json | how: cls, mean, max, lasttoken, weightedmean; several are put side by side |
| sentence_bert_config.json | max_seq_length: tokens of a text, special ones among them; longer texts are cut |
| config_sentence_transformers.json | prompts, put before a text, and which is the default |

Without modules.json a text's vector is the mean of its tokens', as sentence-transformers takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError
from .files import parse_json, quote, read_bytes, read_json_object
from .paths import is_there

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["MODES", "Sentence", "read_sentence"]

MODULES, LENGTH, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
MAX_FILE = 1_000_000
#: The keys of 1_Pooling/config.json, in the order in which sentence-transformers puts what they give side by side.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Sentence:
    """`modes`: kinds of pooling, side by side; `normalize`: to length 1; `max_tokens`: of a text, None: the model's.

    `include_prompt`: a prompt's tokens are pooled too.
    """

    modes: tuple[str, ...] = ("mean",)
    normalize: bool = False
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True


def read_sentence(directory: Path, d_model: int) -> Sentence:
    """What the directory says. Errors: `ConfigError` for files that contradict each other, or ask for other steps."""
    steps = _steps(directory)
    pooling = [path for kind, path in steps if kind == "Pooling"]
    other = [kind for kind, _ in steps if kind not in ("Transformer", "Pooling", "Normalize")]
    if other or len(pooling) > 1:
        what = quote(other[0]) if other else "a second Pooling"
        msg = f"{directory / MODULES}: {what} among its steps; one Pooling, and Normalize, are computed"
        raise ConfigError(msg)
    modes, include = _pooling(directory / pooling[0] / "config.json", d_model) if pooling else (("mean",), True)
    if steps and not pooling:
        msg = f"{directory / MODULES}: no Pooling among its steps, so that a text has no vector of its own"
        raise ConfigError(msg)
    length = _object(directory / LENGTH).get("max_seq_length")
    if length is not None and (type(length) is not int or length < 1):
        msg = f"{directory / LENGTH}: max_seq_length is {quote(length)}; expected a whole number of at least 1"
        raise ConfigError(msg)
    prompts, default = _prompts(directory / PROMPTS)
    return Sentence(modes, ("Normalize", "") in [(k, "") for k, _ in steps], length, prompts, default, include)


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


def _object(file: Path) -> dict[str, Any]:
    return read_json_object(file, MAX_FILE, ConfigError) if is_there(file, CheckpointError) else {}


def _pooling(file: Path, d_model: int) -> tuple[tuple[str, ...], bool]:
    """The modes, and whether a prompt's tokens count."""
    said = read_json_object(file, MAX_FILE, ConfigError)
    width, include = said.get("word_embedding_dimension", d_model), said.get("include_prompt", True)
    unknown = [key for key in said if key.startswith("pooling_mode") and key not in MODES]
    wrong = [key for key in MODES if not isinstance(said.get(key, False), bool)]
    modes = tuple(mode for key, mode in MODES.items() if said.get(key) is True)
    if width != d_model:
        msg = f"{file}: word_embedding_dimension is {quote(width)}, the model's hidden_size {d_model}"
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

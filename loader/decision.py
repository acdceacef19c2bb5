"""How a directory was taught to answer typed questions: decision.json, as transformers writes it.

| key | what it says |
|---|---|
| labels | for each kind of question, what stands for its options; a token each. Default: Yes and No, A to Z |
| temperature | for each kind, what the options' logits are divided by; default 1 |
| noul_options | in which order the two options of a noul come |
| sanitize_control_tokens | a request's control tokens are read as text; false is for templates that write their own |
| adapter | a folder with a LoRA adapter: refused by name, as `load` loads it (docs/adapters.md) |

A prompt of its own (decision_template.jinja), and a head that reads hidden states at marks, are refused by name.
Source: transformers 5.24, `decision/configuration_utils.py`.
"""

from __future__ import annotations

import string
from dataclasses import field
from typing import TYPE_CHECKING, Any

from ..dataclass import dataclass
from ..errors import ConfigError
from .files import quote, read_json_object
from .paths import is_there

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FILE", "KINDS", "Decision", "read_decision"]

FILE, TEMPLATE = "decision.json", "decision_template.jinja"
MAX_FILE = 1_000_000
KINDS = ("noul", "choice", "score")
NOUL = ("true", "false")
_LETTERS = tuple(string.ascii_uppercase)
#: Labels where the file names none.
_LABELS = {"noul": ("Yes", "No"), "choice": _LETTERS, "score": _LETTERS}


@dataclass(frozen=True)
class Decision:
    """`labels` and `temperature` for each kind of question; `noul_options`: their order in the prompt."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(_LABELS))
    temperature: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    noul_options: tuple[str, ...] = NOUL


def read_decision(directory: Path) -> Decision | None:
    """What the directory says, None where it says nothing. Errors: `ConfigError`."""
    file, template = directory / FILE, directory / TEMPLATE
    if is_there(template, ConfigError):
        msg = f"{template}: prompts of a directory's own are not rendered; remove it to ask by transformers' prompt"
        raise ConfigError(msg)
    if not is_there(file, ConfigError):
        return None
    said = read_json_object(file, MAX_FILE, ConfigError)
    if said.get("adapter") is not None:
        msg = (
            f"{file}: adapter is {quote(said['adapter'])}; load that folder as the model's adapter (docs/adapters.md), "
            "and set it to null here"
        )
        raise ConfigError(msg)
    if said.get("sanitize_control_tokens", True) is not True:
        _refuse(file, "sanitize_control_tokens", said["sanitize_control_tokens"], "true")
    if said.get("chat_template") is not None:
        _refuse(file, "chat_template", said["chat_template"], "null")
    return Decision(_labels(file, said), _temperature(file, said), _order(file, said))


def _refuse(file: Path, key: str, value: object, expected: str) -> None:
    msg = f"{file}: {key} is {quote(value)}, expected {expected}"
    raise ConfigError(msg)


def _of_kinds(file: Path, said: dict[str, Any], key: str) -> dict[str, Any]:
    value = said.get(key, {})
    if not isinstance(value, dict) or not value.keys() <= set(KINDS):
        _refuse(file, key, value, f"an object with {', '.join(KINDS)}")
    return dict(value)


def _labels(file: Path, said: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    labels = dict(_LABELS)
    for kind, given in _of_kinds(file, said, "labels").items():
        texts = isinstance(given, list) and all(isinstance(label, str) and label for label in given)
        if not texts or len(set(given)) != len(given) or len(given) < len(NOUL):
            _refuse(file, f"labels.{kind}", given, "a list of two texts or more, each once")
        labels[kind] = tuple(given)
    return labels


def _temperature(file: Path, said: dict[str, Any]) -> dict[str, float]:
    temperature = dict.fromkeys(KINDS, 1.0)
    for kind, given in _of_kinds(file, said, "temperature").items():
        number = isinstance(given, int | float) and not isinstance(given, bool)
        if not (number and 1e-6 <= given <= 1e6):  # noqa: PLR2004 - nothing that is fitted lies outside
            _refuse(file, f"temperature.{kind}", given, "a number above 0")
        temperature[kind] = float(given)
    return temperature


def _order(file: Path, said: dict[str, Any]) -> tuple[str, ...]:
    given = said.get("noul_options", list(NOUL))
    if not isinstance(given, list) or sorted(map(str, given)) != sorted(NOUL):
        _refuse(file, "noul_options", given, f"{list(NOUL)} in some order")
    return tuple(given)

"""Checkpoints that hold a family's model among others: the language model of one that sees images.

Its config.json has the family's own keys in an object of their own; the tensors of what is left out are known by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import ConfigError
from ..files import quote
from .base import SCORED
from .ignored import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..header import TensorInfo

__all__ = ["Around", "left_out", "taken_out"]

#: Said of the whole checkpoint, in the words that the family has too; where it is, that counts.
OF_ALL = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
    *("torch_dtype", "dtype", "transformers_version", "quantization_config"),
)
#: Endings of its classes' names, which speak of the whole.
CLASSES = ("ForConditionalGeneration", "Model")


@dataclass(frozen=True)
class Around:
    """`name`: the whole's model_type; `inside`: the key with the family's own; `harmless`: those of the other parts.

    `prefixes` are tried before the family's own; `skipped` is the pattern of names of tensors that are left out, and
    `what` they compute. A head may lie in the file as `head`.
    """

    name: str
    inside: str
    harmless: frozenset[str]
    prefixes: tuple[str, ...]
    skipped: str
    what: str
    head: str

    def own_name(self, name: str, prefix: str) -> str:
        """A tensor's name in a checkpoint of the family alone, whose prefix is given."""
        if name == self.head:
            return "lm_head.weight"
        before = next((p for p in self.prefixes if name.startswith(p)), None)
        return name if before is None else prefix + name[len(before) :]


def taken_out(raw: Mapping[str, Any], around: Around, family: str, where: str) -> dict[str, Any]:
    """config.json of a family's model, out of the whole's. Errors: `ConfigError`."""
    own = raw.get(around.inside)
    if not isinstance(own, dict):
        msg = f"{where}: {around.inside} is {quote(own)}; expected an object, of the {family} model in it"
        raise ConfigError(msg)
    if own.get("model_type", family) != family:
        msg = f"{where}: {around.inside}.model_type is {quote(own['model_type'])}; expected {family!r}"
        raise ConfigError(msg)
    known = {around.inside, *OF_ALL, *around.harmless} | IGNORED
    unknown = next((name for name, value in raw.items() if name not in known and value is not None), None)
    if unknown is not None:
        msg = (
            f"{where}: unknown key {quote(unknown)} ({quote(raw[unknown])}) in a {around.name} model; it may change "
            "what is computed, so it is refused. If it changes nothing, remove it from the file"
        )
        raise ConfigError(msg)
    out = dict(own) | {"model_type": family} | {name: raw[name] for name in OF_ALL if name in raw}
    names = raw.get("architectures")
    if isinstance(names, list) and any(isinstance(n, str) and n.endswith(SCORED) for n in names):
        msg = f"{where}: architectures is {quote(names)}, a head on a {around.name} model; expected ...{CLASSES[0]}"
        raise ConfigError(msg)
    if isinstance(names, list) and not any(isinstance(n, str) and n.endswith(CLASSES) for n in names):
        out["architectures"] = names  # which the family refuses, as its own
    return out


def left_out(around: Around | None, tensors: Mapping[str, TensorInfo], family: str) -> tuple[str, ...]:
    """A line that names the tensors that are skipped, or none."""
    skipped = [] if around is None else list(_matching(around.skipped, tensors.values()))
    if around is None or not skipped:
        return ()
    size = sum(info.nbytes for info in skipped)
    line = (
        f"{len(skipped)} tensors for {around.what} are skipped, {size:,} bytes ({skipped[0].name} and so on): of this "
        f"{around.name} checkpoint the text model ({family}) is loaded"
    )
    return (line,)


def _matching(pattern: str, tensors: Iterable[TensorInfo]) -> Iterable[TensorInfo]:
    return (info for info in tensors if re.fullmatch(pattern, info.name))

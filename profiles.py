"""Profiles: how to load and run one model on one machine, as `miaotui tune` chose it. A JSON file, docs/tuning.md.

    {"format": "miaotui-profile", "version": 2,
     "model": {"name": ..., "family": ..., "config": HASH, "tensors": HASH},    compared when it is used
     "machine": {...}, "versions": {...},                                       a warning says what differs
     "load": {"threads": 2, "quantize": "int8", ...},                           keywords of `load`
     "generate": {"temperature": 0.7, ...},                                     keywords of `generate`
     "goal": "latency", "limits": {...}, "chosen": {...}, "table": [...],       what was asked, and what was measured
     "command": "miaotui tune ...", "seed": 0}

A file is data from outside: every key is known, every value checked, and nothing in it is run. In version 1 the
precision "exact" was what no precision is now: of integer matrices one plane.
"""

from __future__ import annotations

import json
import math
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from .dataclass import dataclass
from .digest import sha256
from .errors import InputError, MiaotuiError, ProfileError, shown
from .limits import Request
from .loader.files import quote, read_json_object
from .loader.paths import as_path
from .loader.prune.plan import PrunePlan
from .loader.quantize import parse_quantize
from .loader.write import write_whole
from .machine import machine, versions
from .runtime.parameters import GenerateKwargs

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from typing import Self

    from .loader.checkpoint import Checkpoint
    from .loader.open import Opened

__all__ = ["GENERATE", "LOAD", "Profile", "identity", "read_profile"]

FORMAT, VERSION = "miaotui-profile", 2
MAX_BYTES = 2**26
#: Keywords of `load` that a profile may set.
LOAD = (
    "threads", "prefill_chunk", "max_context", "cache_tokens", "quantize", "kv_cache", "precision", "prune", "draft",
)  # fmt: skip
#: Keywords of `generate` with the types of their values; others may be any JSON, which `generate` judges.
GENERATE: dict[str, tuple[type, ...]] = {
    "do_sample": (bool,),
    "temperature": (int, float),
    "top_k": (int,),
    "top_p": (int, float),
    "min_p": (int, float),
    "repetition_penalty": (int, float),
    "seed": (int,),
}
#: Of config.json, what says nothing of the model.
_ASIDE = ("_name_or_path", "transformers_version")
#: Machines whose memory differs by less than this share are alike.
_NEAR = 0.1
_TEXTS = {"goal": str, "command": str}
_TABLES = ("model", "machine", "versions", "load", "generate", "limits", "chosen")


@dataclass(frozen=True)
class Profile:
    """A profile, checked. `load` and `generate` are keywords; the other fields say where they come from.

    `limits`: what was asked; `chosen`: the row of `table` that was chosen. Errors: `ProfileError`.
    """

    model: dict[str, Any]
    load: dict[str, Any]
    generate: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, Any] = field(default_factory=versions)
    goal: str = "latency"
    limits: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)
    table: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for name, kind in {**dict.fromkeys(_TABLES, dict), **_TEXTS, "table": list, "seed": int}.items():
            value = getattr(self, name)
            _check(isinstance(value, kind) and not isinstance(value, bool), name, value, kind.__name__)
        _check(all(isinstance(row, dict) for row in self.table), "table", self.table, "a list of objects")
        for name in ("name", "family", "config", "tensors"):
            _check(isinstance(self.model.get(name), str), f"model.{name}", self.model.get(name), "a text")
        adapter = self.model.get("adapter")
        _check(adapter is None or isinstance(adapter, str), "model.adapter", adapter, "a text or null")
        _check_load(self.load)
        for name, value in self.generate.items():
            if name not in GenerateKwargs.__annotations__:
                known = ", ".join(GenerateKwargs.__annotations__)
                msg = f"generate: {quote(name)} is not understood; expected some of {known}"
                raise ProfileError(msg)
            kinds = GENERATE.get(name, (bool, int, float, str, list, dict))
            right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            right = right and (not isinstance(value, float) or math.isfinite(value))
            _check(right, f"generate.{name}", value, " or ".join(kind.__name__ for kind in kinds))

    def check(self, opened: Opened) -> None:
        """Refuse another model. ProfileError."""
        mine = identity(opened)
        for name, what in (("config", "its config.json is not the same"), ("tensors", "its tensors are not the same")):
            if self.model[name] != mine[name]:
                told = f"profile: was made for {printed(self.model)}, and this is {printed(mine)}: {what}"
                if self.model.get("adapter") != mine["adapter"]:
                    msg = f"{told}, as {self._adapters(mine)}; load with what it was measured with, or leave it out"
                    raise ProfileError(msg)
                msg = f"{told}; run miaotui tune for this model, or leave the profile out"
                raise ProfileError(msg)

    def _adapters(self, mine: Mapping[str, Any]) -> str:
        """Which of the two has an adapter."""
        if not self.model.get("adapter"):
            return "it was measured without an adapter, and this load merges one"
        other = "another adapter" if mine["adapter"] else "an adapter, and this load merges none"
        return f"it was measured with {other}"

    def measured_otherwise(self, opened: Opened) -> str:
        """What is otherwise in this load than in what was measured, by adapters; "": nothing."""
        mine = identity(opened)
        return "" if self.model.get("adapter") == mine["adapter"] else self._adapters(mine)

    def differences(self) -> list[str]:
        """What is otherwise on this machine than on the one it was made on, in words."""
        return list(_differences(self.machine, machine())) + list(_differences(self.versions, versions()))

    def to_json(self) -> str:
        """The file's text."""
        told = {"format": FORMAT, "version": VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(told, indent=1, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all. ProfileError where it cannot be."""
        write_whole(path, self.to_json(), ProfileError)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """From the file's object. Errors: `ProfileError`."""
        if raw.get("format") != FORMAT:
            msg = (
                f"is no profile: its format is {quote(raw.get('format'))}, expected {FORMAT!r}; miaotui tune writes one"
            )
            raise ProfileError(msg)
        if type(raw.get("version")) is not int or not 1 <= raw["version"] <= VERSION:
            has = quote(raw.get("version"))
            msg = f"has version {has}, this version of miaotui reads up to {VERSION}; run miaotui tune again"
            raise ProfileError(msg)
        names = [f.name for f in fields(cls)]
        given = {name: value for name, value in raw.items() if name not in ("format", "version")}
        if given.keys() != set(names):
            lacks = [name for name in names if name not in given]
            more = [name for name in given if name not in names]
            what = (
                f"lacks {', '.join(lacks)}" if lacks else f"has {', '.join(map(quote, more))}, which is not understood"
            )
            msg = f"{what}; it is damaged, or another version's: run miaotui tune again"
            raise ProfileError(msg)
        return cls(**(_renewed(given) if raw["version"] == 1 else given))


def read_profile(path: str | os.PathLike[str] | Profile) -> Profile:
    """The profile in a file, or the one given. Errors: `InputError` for what is no path, and `ProfileError`."""
    if isinstance(path, Profile):
        return path
    file = as_path(path, "profile", InputError)
    raw = read_json_object(file, MAX_BYTES, ProfileError)
    try:
        return Profile.from_dict(raw)
    except ProfileError as e:
        msg = f"{quote(str(file), 300)[1:-1]}: {e}"
        raise ProfileError(msg) from None


def _renewed(given: dict[str, Any]) -> dict[str, Any]:
    """A file of version 1, in today's words."""
    load = given["load"]
    if not isinstance(load, dict) or load.get("precision") != "exact":
        return given
    return given | {"load": {name: value for name, value in load.items() if name != "precision"}}


def identity(opened: Opened) -> dict[str, Any]:
    """Which model it is: its name, its family, and hashes of its config and of its tensors' names, dtypes and sizes.

    `adapter`: the same of the adapter's tensors, where one is merged; one that was trained again is the same.
    """
    config = {name: value for name, value in opened.raw.items() if name not in _ASIDE}
    adapter = None if opened.adapter is None else _digest(_shapes(opened.adapter.files))
    return {
        "name": opened.directory.resolve().name,
        "family": opened.config.family,
        "config": _digest(config),
        "tensors": _digest(_shapes(opened.checkpoint)),
        "adapter": adapter,
    }


def _shapes(file: Checkpoint) -> list[tuple[str, str, list[int]]]:
    return [(name, t.dtype, list(t.shape)) for name, t in sorted(file.tensors.items())]


def printed(model: Mapping[str, Any]) -> str:
    """A model as messages name it."""
    return f"{quote(model['name'])[1:-1]} ({quote(model['family'])[1:-1]})"


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _check(right: bool, name: str, value: object, wanted: str) -> None:  # noqa: FBT001 - as assert has it
    """ProfileError, unless it is right."""
    if not right:
        msg = f"{name}={shown(value, 80)}: expected {wanted}; it is damaged: run miaotui tune again"
        raise ProfileError(msg)


def _check_load(load: Mapping[str, Any]) -> None:
    """ProfileError, which names the option."""
    for name in load:
        if name not in LOAD:
            msg = f"load: {quote(name)} is not understood; expected some of {', '.join(LOAD)}"
            raise ProfileError(msg)
    prune = load.get("prune")
    _check(prune is None or isinstance(prune, str | dict), "load.prune", prune, "short forms, or a plan's object")
    draft = load.get("draft")
    _check(draft is None or (isinstance(draft, str) and draft != ""), "load.draft", draft, "a text")
    try:
        Request(**{name: value for name, value in load.items() if name != "draft"})  # which is no part of a request
        parse_quantize(load.get("quantize"))
        if isinstance(prune, dict):
            PrunePlan.from_dict(prune)
    except MiaotuiError as e:
        msg = f"load: {e}"
        raise ProfileError(msg) from None


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Lines such as "cores: 8 there, 2 here"; the system's version tells nothing of speed."""
    for name in ("cpu", "arch", "cores", "features", "memory_bytes", "miaotui", "numba"):
        if name not in then or name not in now or then[name] == now[name]:
            continue
        old, new = then[name], now[name]
        if name == "features" and isinstance(old, list):
            gone, more = [f for f in old if f not in new], [f for f in new if f not in old]
            sides = (("only there", gone), ("only here", more))
            yield "features " + "; ".join(f"{where}: {', '.join(map(str, some))}" for where, some in sides if some)
        elif name == "memory_bytes" and isinstance(old, int | float) and abs(old - new) <= _NEAR * max(old, new):
            continue
        else:
            yield f"{name}: {quote(old)} there, {quote(new)} here"

"""The settings that are tuned, as axes of a space for one model on one machine, and as keywords of `load`.

Matrices are rounded by groups of roles: `embed` (the embedding and the head), `attention`, `ffn`; an axis each, so
that what one of them loses is seen by itself. A pruning plan is resolved once: a share is ranked by the weights.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError, MiaotuiError
from ...limits import AUTO, PREFILL_CHUNK
from ...load_options import LOAD_DEFAULTS
from ...loader.load_plan import make_load_plan
from ...loader.prune.options import parse_prune
from ...loader.roles import ATTENTION, CROSS, EXPERTS, FEED_FORWARD, MATRICES, ROLES, role_of
from ...runtime.cores import available_threads
from ...runtime.cpu.target import bf16_dot
from ...runtime.kvcache import PAGE, pages_of
from ...runtime.quantized import QUANTIZED
from .space import Axis, Space

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ...loader.open import Opened
    from ...loader.prune.plan import PrunePlan
    from .space import Point
    from .subject import Goal

__all__ = ["AXES", "Cut", "Knobs", "knobs_of"]

#: What may be varied, in the order in which equally good settings are preferred from the left.
AXES = (
    "threads", "prefill_chunk", "batch", "draft", "precision", "kv_cache", "embed", "attention", "ffn", "prune",
    "sampling",
)  # fmt: skip
#: Sublayers of the roles in a group.
GROUPS = {"embed": ("",), "attention": (ATTENTION, CROSS), "ffn": (FEED_FORWARD, EXPERTS)}
ROUNDED = ("none", "int8", "int4a", "int4")
CHUNKS = (128, 32, 64, 256, 512)
BATCHES = (1, 2, 4, 8, 16)
#: Short forms that are tried where no plan is named.
PLANS = ("ffn=0.875", "ffn=0.75")


@dataclass(frozen=True)
class Cut:
    """A pruning plan: how it was written, resolved for this model, and as a profile keeps it."""

    label: str
    plan: PrunePlan | None = None
    saved: str | dict[str, Any] | None = None


WHOLE = Cut("none")


@dataclass(frozen=True)
class Knobs:
    """The space, and what stays the same. `prompt` and `new`: tokens of an answer, where these are what is timed."""

    space: Space
    goal: Goal
    fixed: Mapping[str, Any]
    roles: Mapping[str, tuple[str, ...]]  # of a group, those that the model has
    prompt: int = 0
    new: int = 0

    def options(self, point: Point) -> dict[str, Any]:
        """Keywords of `load`."""
        chosen = self.space.settings(point)
        cut: Cut = chosen.get("prune", WHOLE)
        return self._plain(chosen) | ({} if cut.plan is None else {"prune": cut.plan})

    def saved(self, point: Point) -> dict[str, Any]:
        """The same as a profile keeps them: plain values; an adapter is the caller's, who names it with the profile."""
        chosen = self.space.settings(point)
        cut: Cut = chosen.get("prune", WHOLE)
        plain = {name: value for name, value in self._plain(chosen).items() if name != "adapter"}
        return plain | ({} if cut.saved is None else {"prune": cut.saved})

    def parameters(self, point: Point) -> Mapping[str, Any]:
        """Parameters of `generate` that are the point's: how ids are drawn."""
        drawn: Mapping[str, Any] = self.space.settings(point).get("sampling", {})
        return drawn

    def batch(self, point: Point) -> int:
        """Answers that are computed together."""
        return int(self.space.settings(point).get("batch", 1))

    def steps(self, point: Point) -> float:
        """Passes that decode, of a unit of time, each of which reads all weights; 0: nobody knows."""
        if self.space.settings(point).get("draft") or not self.new:
            return 0.0
        return self.new - 1 if self.goal == "latency" else (self.new - 1) / self.new / self.batch(point)

    def near(self, load: Mapping[str, Any], batch: int, drawn: Mapping[str, Any] | None = None) -> Point | None:
        """The point that was saved so, and draws so; None: there is none."""
        varied = any(axis.name == "sampling" for axis in self.space.axes)
        for p in self.space.points():
            alike = not varied or self.parameters(p) == (drawn or {})
            if alike and self.saved(p) == load and self.batch(p) == batch:
                return p
        return None

    def _plain(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        known = ("threads", "prefill_chunk", "kv_cache")
        out = dict(self.fixed) | {name: chosen[name] for name in known if name in chosen}
        out |= {name: chosen[name] for name in ("draft", "precision") if chosen.get(name) is not None}
        if quantize := self._quantize(chosen):
            out["quantize"] = quantize
        if "batch" in chosen:  # the last page of a text is its own
            out["cache_tokens"] = PAGE * chosen["batch"] * (pages_of(self.prompt + self.new) + 1)
        return out

    def _quantize(self, chosen: Mapping[str, Any]) -> str:
        """As `load` takes it; "": nothing is rounded."""
        of = {role: chosen.get(group, "none") for group, roles in self.roles.items() for role in roles}
        if set(of.values()) <= {"none"}:
            return ""
        general = max(ROUNDED, key=lambda how: sum(v == how for v in of.values()))
        return ",".join([general, *(f"{role}={how}" for role, how in of.items() if how != general)])


def knobs_of(  # noqa: PLR0913 - keywords
    opened: Opened,
    *,
    goal: Goal = "latency",
    vary: Collection[str] = AXES,
    plans: Sequence[str] = (),
    fixed: Mapping[str, Any] | None = None,
    prompt: int = 0,
    new: int = 0,
    levels: Mapping[str, Sequence[Any]] | None = None,
    samplings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Knobs:
    """What can be varied of this model here. `plans`: as `load(prune=)` takes them; `levels`: those of some axes.

    `samplings`: ways to draw ids, by what they are called, as parameters of `generate`. Whether answers are as good
    is seen by a task alone: of a text, one is as good as the other.
    Errors: `InputError` for an axis that there is none of; those of a plan that is named.
    """
    fixed = dict(fixed or {})
    if unknown := [name for name in vary if name not in AXES]:
        msg = f"--vary {','.join(unknown)}: expected some of {', '.join(AXES)}"
        raise InputError(msg)
    roles = _roles(opened)
    every = _levels(opened, goal, prompt, roles, new=new)
    every |= {name: tuple(values) for name, values in (levels or {}).items() if name in every}
    every["prune"] = _cuts(opened, plans, tried=() if "prune" not in vary else PLANS)
    axes = [
        _axis(name, every[name]) for name in AXES if name in vary and name not in fixed and len(every.get(name, ())) > 1
    ]
    if samplings and "sampling" in vary:
        axes.append(Axis("sampling", ({}, *samplings.values()), lossy=not new, shown=("as given", *samplings)))
    return Knobs(Space(tuple(axes)), goal, fixed, roles, prompt, new)


def _axis(name: str, levels: tuple[Any, ...]) -> Axis:
    shown = tuple(cut.label for cut in levels) if name == "prune" else ()
    return Axis(name, levels, lossy=name in ("precision", "kv_cache", "prune", *GROUPS), shown=shown)


def _roles(opened: Opened) -> dict[str, tuple[str, ...]]:
    """Group -> the matrices of it that the model has."""
    there = {role_of(source.name).rpartition(".")[2] for source in make_load_plan(opened)}
    return {
        group: tuple(role for role in MATRICES if role in there and ROLES[role].sublayer in of)
        for group, of in GROUPS.items()
    }


def _levels(
    opened: Opened, goal: Goal, prompt: int, roles: Mapping[str, tuple[str, ...]], *, new: int
) -> dict[str, tuple[Any, ...]]:
    """Axis -> its levels, the usual one first."""
    config, cores = opened.config, available_threads()
    stored = {t.dtype for t in opened.checkpoint.tensors.values()}
    counts = {n for n in (1, cores // 4, cores // 2, cores - 1) if 1 <= n < cores}
    out: dict[str, tuple[Any, ...]] = {"threads": (AUTO, *sorted(counts, reverse=True))}
    if config.decoder is not None:
        usual, longest = PREFILL_CHUNK["cpu"], max(prompt, 1) * (max(BATCHES) if goal == "throughput" else 1)
        out["prefill_chunk"] = tuple(n for n in CHUNKS if n == usual or n < 2 * longest)
        out["kv_cache"] = ("f32", "bf16", "int8")
        if goal == "throughput" and new:
            out["batch"] = BATCHES
        if "draft" in LOAD_DEFAULTS and not config.seq2seq:
            out["draft"] = (None, "ngram")
    held = any(source.dtype in QUANTIZED for source in make_load_plan(opened))  # what tuning rounds takes one plane
    out["precision"] = (None, *(["exact"] if held else []))
    out["precision"] += ("fast",) if "BF16" in stored and bf16_dot() else ()
    return out | {group: ROUNDED for group in GROUPS if roles[group]}


def _cuts(opened: Opened, plans: Sequence[str], tried: Sequence[str]) -> tuple[Cut, ...]:
    """The whole model, and what plans leave; those that nobody named are tried, and may not suit this model."""
    cuts = [WHOLE]
    for wish in plans or tried:
        try:
            plan = parse_prune(wish, opened)
        except MiaotuiError:
            if plans:
                raise
            continue
        if plan is not None:
            saved: str | dict[str, Any] = wish if "=" in wish else json.loads(plan.to_json())
            cuts.append(Cut(wish, plan, saved))
    return tuple(cuts)

"""Plans as mergekit writes them, of one model: slices of its layers, in order, some perhaps twice (depth up-scaling).

    slices:
      - sources: [{model: path/or/name, layer_range: [0, 24]}]      # layers 0 to 23
      - sources: [{model: path/or/name, layer_range: [8, 32]}]
    merge_method: passthrough

Goddard et al. 2024, arXiv:2403.13257; SOLAR's up-scaling: Kim et al. 2023, arXiv:2312.15166. JSON is read as it is,
YAML where the extra `yaml` is installed. What needs a second model, or changes a weight, is refused by name. The
model's name is not compared with anything: the plan is for the checkpoint that it is given with.

A checkpoint that mergekit wrote is an ordinary one; mergekit_config.yml next to it is not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import PlanError
from ..files import quote, read_json_object, read_yaml_object
from ..paths import as_path
from .named import MAX_LAYERS, check_named
from .plan import FORMAT, MAX_PLAN, PrunePlan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from ..open import Opened

__all__ = ["SLICES", "load_plan", "plan_of", "plan_of_slices"]

SLICES = "slices"
#: Keys besides `slices` that move no layer and change no weight. `dtype` is told of: tensors stay as they are stored.
HARMLESS = (
    *("merge_method", "dtype", "out_dtype", "name", "base_model"),
    *("tokenizer_source", "tokenizer", "chat_template"),
)


def load_plan(path: str | PathLike[str], opened: Opened | None = None) -> PrunePlan:
    """Read a plan's file: ours or mergekit's, JSON or (by its name: .yml, .yaml) YAML; `opened`: as in `plan_of`.

    Errors: `PlanError`; `BackendError` for YAML where the extra is not installed.
    """
    file = as_path(path, "plan", PlanError)
    read = read_yaml_object if file.suffix.lower() in (".yml", ".yaml") else read_json_object
    return plan_of(read(file, MAX_PLAN, PlanError), str(path), opened)


def plan_of(raw: Mapping[str, Any], where: str = "plan", opened: Opened | None = None) -> PrunePlan:
    """A plan from a file's object, compared with `opened`'s model before its ranges are written out.

    Raises `PlanError`, naming `where`.
    """
    if opened is not None and raw.get("format") == FORMAT:
        check_named(raw, opened.model_tensors.config, opened.checkpoint)
    return plan_of_slices(raw, where) if SLICES in raw else PrunePlan.from_dict(raw, where)


def plan_of_slices(raw: Mapping[str, Any], where: str = "mergekit's plan") -> PrunePlan:
    """The layers that mergekit's `passthrough` of one model would stack. Raises `PlanError`, naming `where`."""
    unknown = next((key for key in raw if key not in (SLICES, *HARMLESS)), None)
    if unknown is not None:
        msg = f"{where}: {quote(unknown)} is not understood; expected {SLICES} and {', '.join(HARMLESS)}"
        raise PlanError(msg)
    method = raw.get("merge_method")
    if method != "passthrough":
        msg = f"{where}: merge_method is {quote(method)}; layers of one model are taken as they are: passthrough"
        raise PlanError(msg)
    slices = raw[SLICES]
    if not isinstance(slices, list) or not slices:
        msg = f"{where}: {SLICES} is {quote(slices)}; expected a list of slices, each with its sources"
        raise PlanError(msg)
    order: list[int] = []
    models: dict[str, None] = {}
    for i, piece in enumerate(slices):
        model, first, stop = _slice(piece, f"{where}: {SLICES}[{i}]")
        models[model] = None
        order.extend(range(first, stop))
        if len(models) > 1 or len(order) > MAX_LAYERS:
            what = f"two models, {' and '.join(map(quote, models))}" if len(models) > 1 else f"over {MAX_LAYERS} layers"
            msg = f"{where}: {SLICES}[{i}] makes it {what}; a plan is for one, of at most {MAX_LAYERS} layers"
            raise PlanError(msg)
    dtype = next((raw[key] for key in ("out_dtype", "dtype") if raw.get(key)), None)
    notes = [f"mergekit's slices of {quote(next(iter(models)))}"]
    notes += [] if dtype is None else [f"its dtype, {quote(dtype)}, is not applied: tensors stay as they are stored"]
    return PrunePlan(order=tuple(order), notes=tuple(notes))


def _slice(piece: object, where: str) -> tuple[str, int, int]:
    """Model, first layer and the layer after the last of one slice."""
    sources = piece.get("sources") if isinstance(piece, dict) and piece.keys() == {"sources"} else None
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        msg = f"{where} is {quote(piece)}; expected sources with one source: model and layer_range"
        raise PlanError(msg)
    source = sources[0]
    extra = next((key for key in source if key not in ("model", "layer_range")), None)
    if extra is not None:
        msg = f"{where}: {quote(extra)} is {quote(source[extra])}; it would change weights, and layers are taken as is"
        raise PlanError(msg)
    model = source.get("model")
    if isinstance(model, dict):  # mergekit's long form: {"model": {"path": ...}}
        inner = model.get("model", model)
        model = inner.get("path") if isinstance(inner, dict) else None
    span = source.get("layer_range")
    pair = isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span)  # noqa: PLR2004 - a pair
    first, stop = span if isinstance(span, list) and pair else (0, 0)
    if not isinstance(model, str) or not 0 <= first < stop <= MAX_LAYERS:
        msg = f"{where}: found {quote(source)}; expected a model's name and layer_range [first, after the last]"
        raise PlanError(msg)
    return model, first, stop

"""From what a user writes to a resolved `PrunePlan`: a file, an object, or the short forms of the command line.

| short form             | keeps                                                                     |
|------------------------|---------------------------------------------------------------------------|
| `keep-layers=0-2`      | these layers                                                              |
| `drop-layers=5`        | all layers but these                                                      |
| `drop-heads=3:0,1`     | in layer 3, all query heads but 0 and 1; several with + : `3:0,1+4:2`      |
| `drop-experts=3:0,1`   | in layer 3, all experts but 0 and 1; several with +                       |
| `drop-attention=4`     | all but the attention of layer 4                                          |
| `drop-ffn=5`           | all but the feed-forward of layer 5                                       |
| `drop-cross-heads=3:0` | as `drop-heads`, of the attention to an encoder; `drop-cross-attention=4` likewise |
| `ffn=0.75`             | in every layer, this share of the neurons, the weightiest first           |
| `vocab=FILE`           | the tokens that the text in FILE needs, and every special one             |
| `vocab-fallback=WHAT`  | what stands for a token that is gone: `bytes`, `unk` or its id            |
| `width=0-63`           | these dimensions of the residual stream                                   |
| `width=0.75`           | this share of them (what has a point is a share), the weightiest first    |
| `sparsity=2:4`         | everything, with zeros: `sparsity.py` has the words; "2:4,down=0.5" by role |
| `encoder-ffn=0.75`     | as `ffn`, of the encoder that a decoder reads: `encoder-` may stand before what    |
|                        | speaks of layers, `ffn` and `sparsity`, which are of the decoder without it |
| `only=encoder`         | the encoder of an encoder-decoder, as a model of its own                  |
| `plan=FILE`            | what the plan in FILE keeps; the other forms then number what it leaves   |

A plan's file is ours or mergekit's (`mergekit.py`), JSON or YAML.

In Python: `"keep-layers=0-2; ffn=0.75"`, or `{"keep_layers": "0-2", "ffn": 0.75}`.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, PlanError, spelled_like
from ..files import quote, read_text
from ..paths import as_path
from ..ranges import as_indices, last_named, read_indices, read_ranges
from ..sizes import cross_heads, sizes_of
from ..text.tokenizer import Tokenizer
from ..text.vocab_fallback import UNK, needed_rows, with_fallback_id
from ..text.vocabulary import kept_ids
from .compose import of_encoder
from .forms import ENCODER, FORMS, Forms
from .named import check_named, fingerprint
from .plan import PrunePlan
from .ratios import Selection, selected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config
    from ..open import Opened

__all__ = ["Prune", "is_share", "parse_prune", "select"]

#: What `load(prune=)` takes.
Prune = PrunePlan | str | os.PathLike[str] | dict[str, Any]


def select(prune: Prune | None, opened: Opened) -> Selection:
    """What was asked for, as a plan for this model, compiled once; shares are left in it (`Selection.ranked`).

    Reads no tensor, but where the plan in a file has a share and further short forms follow it. Errors: `PlanError`
    and `InputError`, which name a short form, or a plan's file, as it was given.
    """
    if prune is None:
        return selected(PrunePlan(), opened)
    forms = _forms(prune)
    if forms is not None:
        try:
            return _resolved(_from_forms(forms, opened), opened)
        except (PlanError, InputError) as e:
            raise forms.named(e) from None
    if isinstance(prune, dict):
        from .mergekit import plan_of  # noqa: PLC0415 - few need it

        return _resolved(plan_of(prune, opened=opened), opened)
    if isinstance(prune, PrunePlan):
        return _resolved(prune, opened)
    msg = f"prune={quote(prune)}: expected a PrunePlan, a plan's file, or short forms such as 'keep-layers=0-2'"
    raise PlanError(msg)


def _forms(prune: Prune) -> Forms | None:
    """The short forms, where these were given; a plan's file alone is one of them."""
    if isinstance(prune, Forms):
        return prune
    if isinstance(prune, dict):
        from .mergekit import SLICES  # noqa: PLC0415 - few need it

        return None if prune.keys() & {"format", SLICES} else Forms(prune)
    if isinstance(prune, str) and "=" in prune and not _is_file(prune):
        return Forms.of_text(prune)
    return Forms.of_file(prune) if isinstance(prune, str | os.PathLike) else None


def _resolved(plan: PrunePlan, opened: Opened) -> Selection:
    """A plan for this model, compiled; shares are left in it."""
    known = replace(plan, vocab_fallback=None) if plan.vocab_fallback == UNK else plan
    chosen = selected(known, opened)
    plan = with_fallback_id(plan, opened.directory)
    cut, base = (replace(of, vocab_fallback=plan.vocab_fallback) for of in (chosen.cut, chosen.base))
    return Selection(replace(plan, model=fingerprint(opened.config, opened.checkpoint)), cut, base)


def _is_file(text: str) -> bool:
    """Whether short forms are the name of a plan's file after all."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, a NUL, or not to be seen
        return False


def parse_prune(prune: Prune | None, opened: Opened) -> PrunePlan | None:
    """The plan that was asked for, for this model, with every index named; None where nothing was.

    A share of the neurons reads the feed-forward's matrices, a share of the width reads all (`ratios`). Nothing else
    reads a tensor. Errors: `PlanError`.
    """
    return None if prune is None else select(prune, opened).ranked(opened).plan


def _from_forms(forms: Forms, opened: Opened) -> PrunePlan:
    from .mergekit import load_plan  # noqa: PLC0415 - few need it

    unknown = [name for name in forms if name not in FORMS]
    if unknown:
        near = spelled_like(str(unknown[0]), FORMS, 1)
        perhaps = f" (did you mean {forms.name_of(near[0])}?)" if near else ""
        msg = f"{quote(unknown[0])} is not understood{perhaps}; expected some of {', '.join(map(forms.name_of, FORMS))}"
        raise PlanError(msg)
    config = opened.model_tensors.config  # compared with the tensors, before anything is counted by it
    base, left = PrunePlan(), config
    if forms.keys() == {"plan"}:
        return load_plan(forms["plan"], opened)
    if "plan" in forms:  # the other forms number what it leaves
        first = select(load_plan(forms["plan"], opened), opened).ranked(opened)
        of = first.cut if first.cut.only is None or first.cut.encoder is None else first.cut.encoder
        base, left = first.plan, of.config
    ids, fallback = None, _id_or_word(forms.get("vocab_fallback"))
    if "vocab" in forms:
        row = {old: new for new, old in enumerate(range(config.n_vocab) if base.vocab is None else base.vocab)}
        if fallback is None:
            fallback = row.get(base.vocab_fallback, base.vocab_fallback)  # type: ignore[arg-type]  # words are no keys
        needed = () if fallback is None or isinstance(fallback, int) else needed_rows(fallback, opened.directory)
        wanted = {row[i] for i in (*_text_ids(forms["vocab"], opened), *needed) if i in row}
        ids = tuple(sorted(wanted | ({fallback} if isinstance(fallback, int) else set())))
    short = PrunePlan(
        **_of_layers(forms, left),
        vocab=ids,
        vocab_fallback=fallback,
        **_width(forms.get("width"), left),
        encoder=_encoder(forms, left),
        only=forms.get("only"),
    )
    return base.then(short)


def _of_layers(forms: Forms, left: Config) -> dict[str, Any]:
    """Fields of a plan that speak of layers, of the model `left`."""
    heads = _dropped("drop_heads", forms, left)
    heads |= dict.fromkeys(_layers("drop_attention", forms, left), ())
    cross = _dropped("drop_cross_heads", forms, left)
    if _layers("drop_cross_attention", forms, left) and not left.seq2seq:
        msg = f"drop_cross_attention: {left.family} is not an encoder-decoder, and has no attention to an encoder"
        raise PlanError(msg)
    cross |= dict.fromkeys(_layers("drop_cross_attention", forms, left), ())
    dropped = _layers("drop_layers", forms, left)
    layers = None if "keep_layers" not in forms else _layers("keep_layers", forms, left)
    if dropped:
        gone = frozenset(dropped)
        layers = tuple(i for i in (range(left.n_layers) if layers is None else layers) if i not in gone)
    there = frozenset(range(left.n_layers) if layers is None else layers)
    return {
        "layers": layers,
        "heads": {i: kept for i, kept in heads.items() if i in there},
        "cross_heads": {i: kept for i, kept in cross.items() if i in there},
        "ffn": {i: () for i in _layers("drop_ffn", forms, left) if i in there},
        "experts": {i: kept for i, kept in _dropped("drop_experts", forms, left).items() if i in there},
        "ffn_ratio": _number("ffn", forms["ffn"]) if "ffn" in forms else None,
        "sparsity": forms.get("sparsity", {}),
    }


def _encoder(forms: Forms, left: Config) -> PrunePlan | None:
    """What the forms of an encoder say. PlanError: the model has none of its own."""
    of = {name.removeprefix(ENCODER): value for name, value in forms.items() if name.startswith(ENCODER)}
    if not of:
        return None
    if not left.seq2seq:
        msg = f"encoder: {left.family} is not an encoder-decoder; use the same form without {ENCODER.replace('_', '-')}"
        raise PlanError(msg)
    try:
        return PrunePlan(**_of_layers(Forms(of | ({"plan": forms["plan"]} if "plan" in forms else {})), left.encoding))
    except PlanError as e:
        raise PlanError(of_encoder(e)) from None


def _width(value: object, config: Config) -> dict[str, Any]:
    """Fields of a plan from "0-63", [0, 1], "0.75" or 0.75."""
    if is_share(value):
        return {"width_ratio": _number("width", value)}
    check_named({"width": value}, config)
    return {"width": value}


def is_share(value: object) -> bool:
    """Whether a form of `width` is a share: a float, or a text with a point."""
    return isinstance(value, float) or (isinstance(value, str) and "." in value)


def _number(name: str, value: object) -> Any:  # noqa: ANN401 - the plan checks what it is
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        msg = f"{name}: found {quote(value)}; expected a share above 0 and at most 1, such as 0.75"
        raise PlanError(msg) from None


def _id_or_word(value: object) -> Any:  # noqa: ANN401 - the plan checks what it is
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value


def _layers(name: str, forms: Mapping[str, Any], config: Config) -> tuple[int, ...]:
    """Layers that a form names, each there."""
    given, last = forms.get(name, ()), last_named(forms.get(name))
    layers = () if last is not None and last >= config.n_layers else read_indices(given, name)
    last = layers[-1] if layers else last
    if last is not None and last >= config.n_layers:
        what = "what the plan leaves" if "plan" in forms else "the model"
        msg = f"{name}: there is no layer {last}; {what} has {config.n_layers} (0 to {config.n_layers - 1})"
        raise PlanError(msg)
    return layers


#: A form that drops by layer -> what each is called, what a layer without any lacks.
_DROPS = {
    "drop_heads": ("head", "attention"),
    "drop_cross_heads": ("head", "attention to an encoder"),
    "drop_experts": ("expert", "experts"),
}


def _dropped(name: str, forms: Forms, config: Config) -> dict[int, tuple[int, ...]]:
    """Layer -> the heads or experts that are left, from "3:0,1+4:2", a list of such, or {3: "0,1"}."""
    form, (each, lacks) = forms.get(name, {}), _DROPS[name]
    if isinstance(form, dict):
        pairs = list(form.items())
    else:
        pieces = form if isinstance(form, list | tuple) else [form]
        texts = [text for piece in pieces for text in (piece if isinstance(piece, str) else quote(piece)).split("+")]
        pairs = [text.split(":") for text in texts]  # type: ignore[misc]  # of other lengths: refused below
    kept: dict[int, tuple[int, ...]] = {}
    for pair in pairs:
        layers = read_indices(pair[0], name) if len(pair) == 2 else ()  # noqa: PLR2004 - layer:heads
        if len(layers) != 1 or layers[0] in kept:
            msg = f"{name}: found {quote(form)}; expected LAYER:{each.upper()}S such as 3:0,1, each layer once"
            raise PlanError(msg)
        [layer] = _layers(name, {**forms, name: layers}, config)
        own = sizes_of(config, layer)
        has = {"drop_heads": own.n_heads, "drop_cross_heads": cross_heads(config, layer)[0]}
        drop, there = read_ranges(pair[1], name), has.get(name, own.n_experts)
        if drop and drop[-1][1] > there:
            it = f"has {there} (0 to {there - 1})" if there else f"has no {lacks}"
            msg = f"{name}: there is no {each} {drop[-1][1] - 1} in layer {layer}; it {it}"
            raise PlanError(msg)
        kept[layer] = tuple(sorted(set(range(there)) - set(as_indices(drop).tolist())))
    return kept


def _text_ids(path: object, opened: Opened) -> tuple[int, ...]:
    """Rows of the embedding that the text in a file needs; special tokens, BOS and EOS stay with them."""
    if not isinstance(path, str | os.PathLike):
        msg = f"vocab: found {quote(path)}; expected the name of a text file"
        raise InputError(msg)
    text = read_text(as_path(path, "vocab"), InputError)
    config, tokenizer = opened.config, Tokenizer.from_directory(opened.directory)
    needed = {*tokenizer.encode(text), *tokenizer.special_ids}
    rows = kept_ids(opened.directory)
    if rows is not None:
        there = {token: row for row, token in enumerate(rows)}
        needed = {there[i] for i in needed if i in there}
    return tuple(sorted({i for i in (*needed, *config.bos_ids, *config.eos_ids) if i < config.n_vocab}))

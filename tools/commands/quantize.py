"""`miaotui quantize`: a checkpoint in, the same checkpoint with packed int8 or int4 matrices out.

What it writes is a Hugging Face directory that loads mapped, with nothing left to round: config.json with
`quantization_config` (`roles` says what each kind of matrix is; `method` and what follows it, how they were rounded
where a text was looked at), the tokenizer's files, and one safetensors file:

| in the original | written |
|---|---|
| matrix that is quantised, also if stored turned | under its name, U8 [panels, groups, bytes]: `runtime/quantized.py` |
| several in one (GPT-2's c_attn), any quantised  | each alone as NAME.q, NAME.k, NAME.v: packed, or [out, in] as is |
| a stack of experts, quantised                   | each alone, under the name that it has in published files |
| everything else                                 | as it was |
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...runtime.quantized import QUANTIZED
from ...sizes import format_bytes
from ..export import copy_along, new_directory, write_json, write_safetensors
from .arguments import add_adapter, given_model, given_path, new_place, size
from .reading import READING, add_reading, text_of
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.load_plan import LoadPlan
    from ...loader.source import Source
    from ...runtime.spec import Weight
    from ..importance.methods import Text
    from ..rounding.choice import Choice

    Tensors = dict[str, tuple[str, NDArray[np.generic]]]

__all__ = ["add_arguments", "main", "quantize"]

#: What `rounding/budget.py` chose, in the directory that is written.
PLAN = "quantize_plan.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    where = "a Hugging Face directory, or a hub name such as org/name"
    parser.add_argument("path", type=given_model, metavar="PATH_OR_HUB", help=where)
    parser.add_argument("out", metavar="OUT", type=given_path, help="directory to make; it must not be there yet")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    add_adapter(parser)
    parser.add_argument(
        "--quantize",
        metavar="HOW",
        help="int8 (default), int4a, int4; by role: int4,embed=int8; by layer, or both: int4,0=int8,2-4.down=int4a",
    )
    group = parser.add_argument_group(
        "rounding by a text",
        "What each matrix reads of a calibration text says which of its errors count. weighted: scales are chosen by "
        "it. gptq: and columns are rounded in turn, while those to come take up the error. awq, smooth: columns with "
        "large inputs are multiplied, and what makes the input is divided; alone, or before one of the others: "
        "awq,gptq. Of an encoder each line is a text, of an encoder-decoder what its encoder reads, a tab, and the "
        "answer. See docs/quantising.md.",
    )
    group.add_argument("--method", metavar="METHOD", help="one of those above, or two (default: no text is looked at)")
    group.add_argument(
        "--sparsity",
        metavar="ZEROS",
        help="with gptq: which numbers of the layers' matrices become zero is chosen on the way; 2:4 or another N:M "
        "stay, or a share such as 0.5 goes",
    )
    add_reading(group)
    budget = parser.add_argument_group(
        "forms under a budget",
        "In the place of --quantize: each matrix of each layer is as stored, int8, int4a or int4, so that the model "
        "changes least. What each costs is measured with the first 512 tokens of --text. The plan is printed, and "
        f"written as OUT/{PLAN}.",
    )
    budget.add_argument("--bits", type=float, metavar="B", help="bits of a weight on average, scales included: 4.75")
    budget.add_argument("--max-memory", type=size, metavar="SIZE", help="weights, arena and cache together")
    budget.add_argument("--max-kl", type=float, metavar="X", help="sum of the divergences, in nats for each token")
    budget.add_argument("--plan", type=given_path, metavar="FILE", help=f"as an earlier run's {PLAN} says")


def main(args: argparse.Namespace) -> int:
    """Write OUT and say how large it became; 0."""
    from ...loader.hub import locate  # noqa: PLC0415 - help must not wait for it

    new_place(args.out)  # before anything is rounded
    how, text, choice = _how(args), _text(args), None
    path = locate(args.path, revision=args.revision)
    if how is None:
        choice = _chosen(args, path, text)
        print(*choice.lines(), sep="\n")
    told = {"adapter": args.adapter, "method": args.method, "text": None if args.method is None else text}
    told["sparsity"] = args.sparsity
    before, after = quantize(path, args.out, choice or how or "int8", **told)
    print(f"{args.out}: {format_bytes(after)} of weights, from {format_bytes(before)}")
    return 0


#: Of `--sparsity`, where nothing rounds column by column.
ALONE = "only with --method gptq; zeros by themselves: `miaotui prune IN OUT --sparsity ZEROS`, then quantise OUT"
#: Options that say how many bytes there may be, or how much may be lost.
BUDGET = ("bits", "max_memory", "max_kl")


def _text(args: argparse.Namespace) -> Text | None:
    """The calibration text, where one is looked at. Errors: `InputError`, before anything is read."""
    budget = [f"--{name.replace('_', '-')}" for name in BUDGET if getattr(args, name) is not None]
    if args.method is None and not budget:
        refuse_given(args, add_arguments, ("text", *READING), "only with --method, or a budget such as --bits")
        refuse_given(args, add_arguments, ["sparsity"], ALONE)
        return None
    if budget:
        refuse_given(args, add_arguments, ["sparsity"], "what forms cost is measured without zeros; give --quantize")
    if args.method is not None:
        from ..rounding.method import parse_method  # noqa: PLC0415 - help must not wait for it

        parse_method(args.method, args.sparsity)
    if args.text is None:
        what = budget[0] if args.method is None else f"--method {args.method}"
        msg = f"{what} looks at what the model does: give a text, --text FILE"
        raise InputError(msg)
    return text_of(args)


def _how(args: argparse.Namespace) -> str | None:
    """What `--quantize` or `--plan` says; None with a budget. Errors: `InputError` for two of these."""
    names = ("quantize", "plan", *BUDGET)
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if len(given) > 1:
        msg = f"{' and '.join(given)}: each says what matrices become; give one of them"
        raise InputError(msg)
    if args.plan is not None:
        from ..rounding.choice import read_choice  # noqa: PLC0415 - help must not wait for it

        return read_choice(args.plan)
    return args.quantize or (None if given else "int8")


def _chosen(args: argparse.Namespace, path: Path, text: Text | None) -> Choice:
    """Forms under the budget. Errors: `InputError`."""
    from ..rounding.budget import choice_for  # noqa: PLC0415 - help must not wait for it

    if args.adapter is not None:
        why = "a budget measures a checkpoint; write the merged one first, `miaotui prune IN MERGED --adapter PATH`"
        msg = f"--adapter {args.adapter}: {why}"
        raise InputError(msg)
    assert text is not None  # noqa: S101 - `_text` has seen that there is one
    return choice_for(path, text, **{name: getattr(args, name) for name in BUDGET})


def quantize(  # noqa: PLR0913 - keywords
    path: str | Path,
    out: str | Path,
    how: str | Choice,
    *,
    adapter: str | Path | None = None,
    method: str | None = None,
    text: Text | None = None,
    sparsity: str | None = None,
) -> tuple[int, int]:
    """Write `path` quantised to the new directory `out`; bytes of weights before and after.

    `how`: as in `load`, or a choice under a budget (`rounding/budget.py`), which is written along. `adapter`: a PEFT
    adapter that is merged first; the merged model is written next to `out`, and removed again. It appears whole or not
    at all. `method`: of `rounding/method.py`, by what `text` shows; `sparsity`: zeros that it chooses ("2:4", "0.5").
    Errors: `InputError` where `out` is there, for a
    `method` that is not, and for one without the other; `PlanError` for a `how` that is not understood; and loading's
    own.
    """
    from ...loader.load_plan import make_load_plan  # noqa: PLC0415 - help must not wait for these
    from ...loader.open import open_model  # noqa: PLC0415 - as above

    if adapter is not None:
        from ..prune import prune  # noqa: PLC0415 - as above

        with TemporaryDirectory(dir=Path(out).absolute().parent, prefix=".merged-") as whole:
            prune(path, Path(whole) / "merged", None, adapter=adapter)
            return quantize(Path(whole) / "merged", out, how, method=method, text=text, sparsity=sparsity)
    _check_types(how, method, text)
    if (method is None) != (text is None):
        msg = "method and text belong together; expected both, or neither"
        raise InputError(msg)
    if sparsity is not None and method is None:
        msg = f"sparsity={sparsity!r}: {ALONE}"
        raise InputError(msg)
    with open_model(path) as opened, new_directory(out) as made:
        if method is not None:
            from ..rounding.sensitivity import refuse_quantized  # noqa: PLC0415 - only where it is asked for

            refuse_quantized(opened.directory, make_load_plan(opened, None))
        plan = make_load_plan(opened, how if isinstance(how, str) else how.quantize)
        if method is not None and not any(source.quantizes for source in plan):
            msg = f"--method {method}: {how!r} rounds no matrix; name a form, such as int4"
            raise InputError(msg)
        if not isinstance(how, str):
            how.save(made / PLAN)
        rounded = None
        if method is not None and text is not None:
            from ..rounding.by_text import round_by_text  # noqa: PLC0415 - only where it is asked for
            from ..rounding.method import parse_method  # noqa: PLC0415 - as above

            asked = parse_method(method, sparsity)
            rounded = round_by_text(opened.directory, plan, opened.checkpoint, asked, text)
        tensors = _tensors(plan, opened.checkpoint, {} if rounded is None else rounded.weights)
        _write(made, opened.directory, opened.raw, tensors, plan, {} if rounded is None else rounded.receipt)
        return opened.checkpoint.file_bytes, sum(array.nbytes for _, array in tensors.values())


def _check_types(how: object, method: object, text: object) -> None:
    """Refuse what is of another type: `InputError`. What is usual imports nothing."""
    wrong = ""
    if not isinstance(how, str):
        from ..rounding.choice import Choice  # noqa: PLC0415 - only where it may be one

        wrong = "" if isinstance(how, Choice) else f"how={how!r}: expected text such as 'int8', or a choice"
    if method is not None and not isinstance(method, str):
        wrong = f"method={method!r}: expected a method's name"
    if text is not None:
        from ..importance.methods import Text  # noqa: PLC0415 - as above

        wrong = wrong if isinstance(text, Text) else f"text={text!r}: expected a Text"
    if wrong:
        raise InputError(wrong)


def _tensors(plan: LoadPlan, checkpoint: Checkpoint, rounded: Mapping[str, Weight]) -> Tensors:
    """Name -> dtype and array of what is to be written; `rounded`: matrices by name that are packed already."""
    from ...loader.pack import pack  # noqa: PLC0415 - help must not wait for these
    from ...loader.source import read  # noqa: PLC0415 - as above
    from ...model import quantizer  # noqa: PLC0415 - as above
    from ...runtime.cores import available_threads  # noqa: PLC0415 - as above

    made = {id(source): rounded[source.name] for source in plan if source.name in rounded}
    how: dict[str, Any] = {"threads": available_threads(), "rows": quantizer(plan), "made": made}
    weights = {weight.name: weight for weight in pack(plan, checkpoint, **how)}
    split = {source.tensor.name for source in plan if (source.quantizes or source.repacked) and source.fused}
    tensors: Tensors = {}
    for source in plan:
        tensors.update((info.name, (info.dtype, checkpoint.array(info.name))) for info in source.several)
        if source.several:
            continue
        name, dtype, array = source.tensor.name, source.tensor.dtype, checkpoint.array(source.tensor.name)
        if name in split:
            array, name = read(source, array), source.alone
        if source.quantizes or source.repacked:
            packed = weights[source.name].array
            assert packed is not None  # noqa: S101 - pack gives every weight its array
            array, dtype = packed, "U8"
        tensors[name] = (dtype, array)
    for source in plan:
        if len(source.shape) == 1 and source.name in rounded:
            _put_vector(tensors, source, rounded[source.name])
    return tensors


def _put_vector(tensors: Tensors, source: Source, weight: Weight) -> None:
    """A norm's or a bias's new numbers, F32, in the place of those in the file; the tensor may hold others' too."""
    from ...loader.underflow import widened  # noqa: PLC0415 - help must not wait for it

    name = source.tensor.name
    dtype, array = tensors[name]
    whole = widened(np.asarray(array), dtype).reshape(-1).copy()
    assert weight.array is not None  # noqa: S101 - made with it
    whole[source.row_indices] = weight.array.astype(np.float32) - np.float32(source.plus)
    tensors[name] = ("F32", whole.reshape(array.shape))


def _write(  # noqa: PLR0913, PLR0917 - what a directory is made of
    made: Path, path: Path, config: dict[str, Any], tensors: Tensors, plan: LoadPlan, receipt: Mapping[str, Any]
) -> None:
    from ...loader.config import QUANT_FORMAT, QUANT_METHOD  # noqa: PLC0415 - help must not wait for it

    several: dict[str, set[str]] = {}
    for source in plan:
        if source.dtype in QUANTIZED:
            several.setdefault(source.role, set()).add(source.dtype)
    roles = {role: ", ".join(sorted(dtypes)) for role, dtypes in several.items()}
    ours = {"quant_method": QUANT_METHOD, "format": QUANT_FORMAT, "roles": roles, **receipt}
    copy_along(path, made)
    write_json(made / "config.json", config | {"quantization_config": ours})
    rows = ((name, dtype, array.shape, partial(np.asarray, array)) for name, (dtype, array) in tensors.items())
    write_safetensors(made / "model.safetensors", rows, "miaotui")

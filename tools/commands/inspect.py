"""`miaotui inspect`: what a checkpoint is and what it will take, from its config and headers alone."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from ...errors import ProfileError
from ...sizes import counted, format_bytes
from ..streams import as_text
from .arguments import (
    add_adapter,
    add_adapters,
    add_precision,
    add_profile,
    add_prune,
    add_quantize,
    given_model,
    profile_of,
    request_of,
)
from .shape import config_facts, shape_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ...limits import Request

__all__ = ["add_arguments", "facts", "lines", "main"]

_PARTS = {
    "weights_mapped": "weights, mapped from the files",
    "weights_resident": "weights, resident",
    "weights_copied": "weights, copied: they lay otherwise",
    "adapters": "adapters, kept apart",
    "constants": "constants",
    "activations": "arena: activations",
    "scratch": "arena: scratch",
    "kv_cache": "arena: KV cache",
    "allocated": "allocated (all but the mapped files)",
    "device_weights": "GPU: weights",
    "device_constants": "GPU: constants",
    "device_activations": "GPU: arena, activations and scratch",
    "device_kv_cache": "GPU: arena, KV cache",
    "device_step": "GPU: what a step is told",
    "device_draw": "GPU: what draws an id",
    "device_allocated": "GPU: allocated",
    "total": "total",
}

#: What the listing's columns are.
LEGEND = (
    "program: what a step runs, an instruction a line:",
    "  number, | where threads wait for each other, kernel, output <- inputs, weights, constants;",
    "  name[rows, columns]@offset is a tensor in the arena, T the tokens of the step, R those whose logits are wanted",
    "",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    where = "a Hugging Face directory, or a hub name such as org/name"
    parser.add_argument("path", type=given_model, metavar="PATH_OR_HUB", help=where)
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    parser.add_argument(
        *("--max-context", "--context"),
        type=int,
        metavar="N",
        help="tokens to reserve memory for (default: the model's, at most 2048)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to plan for (default: every core)")
    add_adapter(parser)
    add_quantize(parser)
    add_prune(parser)
    add_adapters(parser, chosen=False)
    parser.add_argument("--receipt", action="store_true", help="say for every weight what is read, mapped and resident")
    parser.add_argument(
        "--hash", action="store_true", help="the receipt with the SHA-256 of what would be read; reads it all"
    )
    add_precision(parser)
    add_profile(parser, auto=False)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="whose memory to count; needs no GPU")
    parser.add_argument("--program", action="store_true", help="list the instructions that a step runs, with a legend")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Print what is found; 0."""
    receipt: Literal["plain", "hash"] | None = "hash" if args.hash else "plain" if args.receipt else None
    _check_profile(args)
    known = facts(args.path, request_of(args), revision=args.revision, program=args.program, receipt=receipt)
    known |= {"name": as_text(known["name"])} if args.json else {}
    print(json.dumps(known, indent=1) if args.json else "\n".join(lines(known)))
    return 0


def _check_profile(args: argparse.Namespace) -> None:
    """Refuse another model's. ProfileError."""
    from ...loader.open import open_model  # noqa: PLC0415 - as below

    if (profile := profile_of(args)) is None:
        return
    with open_model(args.path, revision=args.revision) as opened:
        try:
            profile.check(opened)
        except ProfileError as e:
            msg = f"--profile {args.tuned}: {str(e).removeprefix('profile: ')}"
            raise ProfileError(msg) from None


def facts(
    path: str | Path,
    request: Request,
    *,
    revision: str | None = None,
    program: bool = False,
    receipt: Literal["plain", "hash"] | None = None,
) -> dict[str, Any]:
    """Everything that `miaotui inspect` knows of a checkpoint, as plain values for JSON.

    What it says of memory is `load`'s own, from `prepare`. Errors: as loading would raise them.
    """
    from ...loader.open import open_model  # noqa: PLC0415 - help must not wait for these
    from ...loader.prune.receipt import hashed  # noqa: PLC0415 - as above
    from ...prepare import prepare  # noqa: PLC0415 - as above

    with open_model(path, revision=revision, adapter=request.adapter) as opened:
        prepared, checkpoint = prepare(opened, request), opened.checkpoint
        plan, account = prepared.plan, prepared.receipt
        account = hashed(account, plan, checkpoint) if receipt == "hash" else account
        bytes_of: Counter[str] = Counter()
        for tensor in checkpoint.tensors.values():
            bytes_of[tensor.stored_as] += tensor.nbytes
        return (
            {
                "name": opened.directory.resolve().name,
                "config": config_facts(plan.config, normed=any("q_norm" in roles for roles in plan.layers)),
                "parameters": plan.parameters,
                "tensors": sum(len(tensor.pieces) for tensor in checkpoint.tensors.values()),
                "file_bytes": checkpoint.file_bytes,
                "bytes_by_dtype": dict(bytes_of.most_common()),
                "plan": plan.lines(),
                "context": prepared.program.n_context,
                "memory": prepared.memory | {"total": prepared.memory["allocated"] + plan.mapped_bytes},
                "kept": account.plan,
                "read_bytes": account.read_bytes,
                "corrections": list(opened.corrections),
            }
            | ({} if opened.adapter is None else {"adapter": str(opened.adapter)})
            | ({"adapters": list(prepared.apart.lines)} if prepared.apart is not None else {})
            | ({"program": prepared.program.listing()} if program else {})
            | ({"receipt": account.as_dict()} if receipt else {})
        )


def lines(known: Mapping[str, Any]) -> list[str]:
    """Lay out what `facts` found, for people."""
    out = [f"{known['name']}: {known['config']['family']}, {known['parameters']:,} parameters"]
    out += [f"  {line}" for line in shape_lines(known["config"])]
    dtypes = ", ".join(f"{format_bytes(n)} {dtype}" for dtype, n in known["bytes_by_dtype"].items())
    out += ["", f"files: {format_bytes(known['file_bytes'])}, {counted(known['tensors'], 'tensor')}: {dtypes}"]
    out += [f"note: {line}" for line in known["corrections"]]
    out += [f"adapter: {known['adapter']}"] if "adapter" in known else []
    if known["kept"] != "keep everything":
        read = known["read_bytes"]
        out += [f"pruned: {known['kept']}", f"        {read:,} bytes of the files are read, {format_bytes(read)}"]
    out += ["", "plan: what each weight is made from"]
    out += [f"  {line}" for line in known["plan"]]
    out += ["", *known["adapters"]] if "adapters" in known else []
    out += ["", f"memory for a context of {counted(known['context'], 'token')}"]
    memory = known["memory"]
    out += [
        f"  {label:36s}{memory[part]:>16,} B  {format_bytes(memory[part]):>10}"
        for part, label in _PARTS.items()
        if part in memory
    ]
    if "receipt" in known:
        from ...loader.prune.receipt import Receipt  # noqa: PLC0415 - help must not wait for it

        out += ["", "receipt: what is read", *Receipt.from_dict(known["receipt"]).lines()]
    if "program" in known:
        out += ["", *LEGEND, *known["program"]]
    return out

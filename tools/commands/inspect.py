"""`miaotui inspect`: what a checkpoint is and what it will take, from its config and headers alone."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from ...errors import InputError
from .arguments import add_kv_cache, add_prune, add_quantize, format_bytes, prune_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from ...loader.prune.options import Prune
    from ...runtime.spec import Config

__all__ = ["add_arguments", "facts", "lines", "main"]

_PARTS = {
    "weights_mapped": "weights, mapped from the files",
    "weights_resident": "weights, resident",
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("path", metavar="PATH_OR_HUB", help="a Hugging Face directory, or a hub name such as org/name")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens to reserve for (default: the model's, at most 2048)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads to plan for (default: every core)")
    add_quantize(parser)
    add_prune(parser)
    parser.add_argument("--receipt", action="store_true", help="say of every weight what is read, mapped and resident")
    parser.add_argument("--hash", action="store_true", help="the receipt with SHA-256 of what is read: reads it")
    add_kv_cache(parser)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="whose memory to count; needs no GPU")
    parser.add_argument("--program", action="store_true", help="list the program that a step runs")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    """Print what is found; 0."""
    from ...loader.hub import locate  # noqa: PLC0415 - help must not wait for it

    path = locate(args.path, revision=args.revision)
    known = facts(
        path,
        context=args.context,
        threads=args.threads,
        program=args.program,
        quantize=args.quantize,
        prune=prune_of(args),
        receipt="hash" if args.hash else "plain" if args.receipt else None,
        kv_cache=args.kv_cache,
        device=args.device,
    )
    print(json.dumps(known, indent=1) if args.json else "\n".join(lines(known)))
    return 0


def facts(  # noqa: PLR0913 - keywords, as of `load`
    path: Path,
    *,
    context: int | None = None,
    threads: int | None = None,
    program: bool = False,
    quantize: str | None = None,
    prune: Prune | None = None,
    receipt: Literal["plain", "hash"] | None = None,
    kv_cache: str = "f32",
    device: str = "cpu",
) -> dict[str, Any]:
    """Everything that `miaotui inspect` knows of a directory, as plain values for JSON.

    Errors: `CheckpointError`, `ConfigError`, `InputError`, `PlanError`, as loading would raise them.
    """
    from ...limits import DEFAULT_CONTEXT, LOGIT_ROWS, PREFILL_CHUNK, check_kv_cache, predicted_memory  # noqa: PLC0415
    from ...loader.checkpoint import open_checkpoint  # noqa: PLC0415 - help must not wait for these
    from ...loader.config import parse_config  # noqa: PLC0415
    from ...loader.load_plan import make_load_plan  # noqa: PLC0415
    from ...loader.pack import planned  # noqa: PLC0415
    from ...loader.prune import options  # noqa: PLC0415 - help must not wait for these
    from ...loader.prune.receipt import hashed, make_receipt  # noqa: PLC0415
    from ...loader.prune.stored_zeros import counted  # noqa: PLC0415
    from ...runtime.program import record  # noqa: PLC0415

    check_kv_cache(kv_cache)
    with open_checkpoint(path) as checkpoint:
        config = parse_config(checkpoint.config, str(checkpoint.directory / "config.json"), checkpoint.generation)
        pruned = options.parse_prune(prune, checkpoint, config)
        plan = counted(make_load_plan(checkpoint, config, quantize, pruned), checkpoint)
        config = plan.config
        account = make_receipt(plan, checkpoint, pruned)
        account = hashed(account, plan, checkpoint) if receipt == "hash" else account
        n_context = _context(config, context, DEFAULT_CONTEXT)
        chunk, n_threads = min(PREFILL_CHUNK[device], n_context), _threads(threads) if device == "cpu" else 1
        n_logits = min(LOGIT_ROWS, chunk)
        recorded = record(
            config,
            planned(plan),
            n_context=n_context,
            chunk=chunk,
            n_logits=n_logits,
            threads=n_threads,
            kv_cache=kv_cache,
        )
        bytes_of: Counter[str] = Counter()
        for tensor in checkpoint.tensors.values():
            bytes_of[tensor.dtype] += tensor.stop - tensor.start
        memory = predicted_memory(plan, recorded, device)
        memory["total"] = memory["allocated"] + plan.mapped_bytes
        return (
            {
                "name": checkpoint.directory.resolve().name,
                "config": asdict(config),
                "parameters": plan.parameters,
                "tensors": len(checkpoint.tensors),
                "file_bytes": checkpoint.file_bytes,
                "bytes_by_dtype": dict(bytes_of.most_common()),
                "plan": plan.lines(),
                "context": n_context,
                "memory": memory,
                "kept": account.plan,
                "read_bytes": account.read_bytes,
                "corrections": list(checkpoint.corrections),
            }
            | ({"program": recorded.listing()} if program else {})
            | ({"receipt": account.as_dict()} if receipt else {})
        )


def lines(known: Mapping[str, Any]) -> list[str]:
    """Lay out what `facts` found, for people."""
    out = [f"{known['name']}: {known['config']['family']}, {known['parameters']:,} parameters"]
    out += [f"  {line}" for line in _shape(known["config"])]
    dtypes = ", ".join(f"{format_bytes(n)} {dtype}" for dtype, n in known["bytes_by_dtype"].items())
    out += ["", f"files: {format_bytes(known['file_bytes'])}, {known['tensors']} tensors: {dtypes}"]
    out += [f"note: {line}" for line in known["corrections"]]
    if known["kept"] != "keep everything":
        read = known["read_bytes"]
        out += [f"pruned: {known['kept']}", f"        {read:,} bytes of the files are read, {format_bytes(read)}"]
    out += ["", "plan: what each weight is made from"]
    out += [f"  {line}" for line in known["plan"]]
    out += ["", f"memory for a context of {known['context']} tokens"]
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
        out += ["", "program: what a step runs", *known["program"]]
    return out


def _shape(c: Mapping[str, Any]) -> list[str]:
    """Say the model's sizes and kinds."""
    windows = Counter(c["windows"])
    windows.pop(None, None)
    rope = c["rope"]
    norm = "RMSNorm" if c["norm"] == "rms" else "LayerNorm"
    vocabulary = f"vocabulary {c['n_vocab']}" + (" (head tied to the embedding)" if c["tied"] else "")
    where = "learned positions" if rope is None else f"RoPE {rope['kind']}, theta {rope['theta']:g}"
    return [
        f"{c['n_layers']} layers of width {c['d_model']}, {vocabulary}, made for {c['n_context']} positions",
        f"attention: {c['n_heads']} heads of {c['d_head']}, {c['n_kv_heads']} key/value heads, {where}"
        + (", QK norm" if c["qk_norm"] else "")
        + "".join(f", window {w} in {n} layers" for w, n in windows.items()),
        f"feed-forward: {c['d_ff']} {'gated ' if c['gated'] else ''}{c['activation']}; {norm}, eps {c['norm_eps']:g}",
        *(
            f"layer {i}: {s['n_heads'] or 'no'} heads on {s['n_kv_heads']}, feed-forward {s['d_ff'] or 'none'}"
            for i, s in enumerate(c["uneven"])
        ),
        f"ends at token {' or '.join(map(str, c['eos_ids']))}" if c["eos_ids"] else "has no end-of-sequence token",
    ]


def _context(config: Config, wanted: int | None, default: int) -> int:
    if wanted is None:
        return min(config.n_context, default)
    most = config.n_context if config.rope is None else max(config.n_context, 2**20)
    if not 1 <= wanted <= most:
        msg = f"--context {wanted}: expected 1 to {most}"
        raise InputError(msg)
    return wanted


def _threads(wanted: int | None) -> int:
    if wanted is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if wanted < 1:
        msg = f"--threads {wanted}: expected at least 1"
        raise InputError(msg)
    return wanted

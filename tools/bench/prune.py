"""What a cut gains: pruned and dense, by turns in one command, on a random checkpoint at a real shape.

    python -m miaotui.tools.bench.prune --dtype bf16 --out docs/benchmarks/prune-speed-smollm2-135m-bf16.json

Each side is a process of its own that sleeps while the other works, as in `compare`; a row of `CUTS` is one
comparison. With --cut one row at a time: rows go into the file as they are made, and replace those of the same name.

    gain share = (dense seconds a token / pruned) / (dense bytes a step / pruned)

1 means that decoding got faster by as much as there is less to read. The bytes are those of the weights that a step
reads: of an embedding that is not the head one row, everything else whole. `BARS` says what the share should reach;
prefill should never be slower than dense. Memory is what `footprint` finds in fresh processes, less arena and cache:
what the weights take, loading included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.prune.plan import PrunePlan
from .compare import QUANTIZED, Plan, Worker, by_turns, our_command
from .footprint import footprint
from .roofline import ReadSum, machine, versions
from .shapes import DTYPES, SHAPES, make_checkpoint
from .shared import GB, paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BARS", "CUTS", "main", "table"]

Shape = dict[str, Any]
#: What the gain share of a kind of cut should reach.
BARS = {"structured": 0.9, "sparse": 0.8}
CONTEXT = 256  # positions come in multiples of this


@dataclass(frozen=True)
class Cut:
    """A row: what it keeps, in words and as a plan for a shape (its config.json)."""

    kind: str
    keeps: str
    plan: Callable[[Shape], PrunePlan]


def _layers(shape: Shape) -> PrunePlan:
    return PrunePlan(layers=tuple(range(0, shape["num_hidden_layers"], 2)))


def _heads(shape: Shape) -> PrunePlan:
    """Of an odd number of KV groups one layer keeps the larger half, the next one the smaller."""
    groups, each = shape["num_key_value_heads"], shape["num_attention_heads"] // shape["num_key_value_heads"]
    kept = [(groups + 1 - i % 2) // 2 for i in range(shape["num_hidden_layers"])]
    return PrunePlan(heads={i: tuple(range(n * each)) for i, n in enumerate(kept) if n < groups})


def _half(n: int, seed: int) -> tuple[int, ...]:
    """A random half of range(n): scattered, as what a method finds."""
    return tuple(sorted(map(int, np.random.default_rng(seed).permutation(n)[: n // 2])))


def _ffn(shape: Shape) -> PrunePlan:
    return PrunePlan(ffn={i: _half(shape["intermediate_size"], i) for i in range(shape["num_hidden_layers"])})


def _vocab(shape: Shape) -> PrunePlan:
    return PrunePlan(vocab=_half(shape["vocab_size"], 0))


def _width(shape: Shape) -> PrunePlan:
    return PrunePlan(width=_half(shape["hidden_size"], 0))


def _each(shape: Shape) -> PrunePlan:
    """Half of each; layers are left last, so that every other plan may number them all."""
    return _heads(shape).then(_ffn(shape)).then(_vocab(shape)).then(_layers(shape))


#: name -> what is compared with the dense model
CUTS: dict[str, Cut] = {
    "layers": Cut("structured", "every other layer", _layers),
    "heads": Cut("structured", "half of the KV groups with their queries", _heads),
    "ffn": Cut("structured", "a random half of every layer's neurons", _ffn),
    "width": Cut("structured", "a random half of the residual stream", _width),
    "vocab": Cut("structured", "a random half of the token ids", _vocab),
    "each": Cut("structured", "half of layers, heads, neurons and ids at once", _each),
    "2of4": Cut("sparse", "2 of every 4 columns", lambda _: PrunePlan(sparsity={"all": "2:4"})),
    "blocks": Cut("sparse", "half of the blocks of 4 x 4", lambda _: PrunePlan(sparsity={"all": "0.5/4x4"})),
    "half": Cut("sparse", "half of every row", lambda _: PrunePlan(sparsity={"all": "0.5"})),
}


@dataclass(frozen=True)
class Setting:
    """What all rows of a file have in common."""

    shape: str
    dtype: str
    threads: int
    prompt: int
    new: int
    rounds: int
    prefills: int

    def plan(self, n_vocab: int) -> Plan:
        """Ids that both models have."""
        ids = [int(i) for i in np.random.default_rng(1).integers(0, n_vocab, self.prompt + self.new)]
        return Plan(ids[: self.prompt], ids[self.prompt :], self.rounds, self.prefills)

    @property
    def quantize(self) -> str | None:
        """What `load` is told."""
        return self.dtype if self.dtype in QUANTIZED else None

    @property
    def context(self) -> int:
        """Positions, in whole `CONTEXT`s."""
        return -(-(self.prompt + self.new) // CONTEXT) * CONTEXT


def measure(name: str, setting: Setting, directory: Path) -> dict[str, Any]:
    """One row."""
    cut, stored = CUTS[name], "bf16" if setting.quantize else setting.dtype
    model = make_checkpoint(directory / f"{setting.shape}-{stored}", setting.shape, stored)
    file = directory / f"{setting.shape}-{name}.plan.json"
    cut.plan(SHAPES[setting.shape]).save(file)
    options = {"quantize": setting.dtype} if setting.quantize else {}
    both = (options, options | {"prune": str(file)})
    dense, pruned = (Worker(our_command(model, o, setting.threads, setting.context)) for o in both)
    for side in (dense, pruned):  # every page once
        side.ask("prefill", [0] * setting.prompt)
        side.ask("decode", [0])
    with ReadSum(setting.threads) as read:
        turns = by_turns(pruned, dense, read, setting.plan(pruned.about["n_vocab"]))
    row: dict[str, Any] = {"cut": name, "kind": cut.kind, "keeps": cut.keeps}
    for label, side, plan in (("dense", dense, None), ("pruned", pruned, file)):
        side.close()
        nbytes = side.about["weight_bytes_per_step"]
        facts = {"weight_bytes_per_step": nbytes, "load_s": side.about["load_s"]}
        row[label] = turns.figures(side, nbytes) | facts | _memory(model, plan, setting)
    row["read_gbs"] = statistics.median(turns.reads) / GB
    row["decode_ratio"] = paired(turns.decode[pruned], turns.decode[dense])
    row["prefill_ratio"] = paired(turns.prefill[pruned], turns.prefill[dense])
    for ratio, key in (("bytes", "weight_bytes_per_step"), ("weights", "weights_bytes"), ("memory", "memory_bytes")):
        row[f"{ratio}_ratio"] = row["dense"][key] / row["pruned"][key]
    row["gain_share"] = row["decode_ratio"]["median"] / row["bytes_ratio"]
    return row


def _memory(model: Path, plan: Path | None, setting: Setting) -> dict[str, int]:
    """Bytes of the weights as planned, and what they took of the system."""
    new, context = min(setting.new, setting.context - 1), setting.context
    facts = footprint(model, setting.quantize, context=context, new=new, threads=setting.threads, prune=plan)
    taken = facts["beyond_baseline_bytes"] - facts["arena_bytes"]
    return {"weights_bytes": facts["weights_bytes"], "memory_bytes": taken}


def table(reports: Sequence[dict[str, Any]]) -> str:
    """Markdown, a row for each cut and dtype: every figure is dense over pruned, so that more is better."""
    first = reports[0]
    head = f"| {first['shape']}, {first['threads']} threads, dense / pruned | bytes a step | decode | gain share "
    lines = [f"{head}| prefill {first['prompt']} | weights | in memory |", "|---|--:|--:|--:|--:|--:|--:|"]
    lines += [
        f"| {report['dtype'].upper()}, {r['keeps']} | {r['bytes_ratio']:.2f} | {r['decode_ratio']['median']:.2f} "
        f"| **{r['gain_share']:.2f}** | {r['prefill_ratio']['median']:.2f} "
        f"| {r['weights_ratio']:.2f} | {r['memory_ratio']:.2f} |"
        for report in reports
        for r in report["results"]
    ]
    return "\n".join(lines) + "\n"


def short(row: dict[str, Any]) -> list[str]:
    """Name what stays below its bar."""
    missed = []
    if row["gain_share"] < BARS[row["kind"]]:
        missed.append(f"gain share {row['gain_share']:.3f} < {BARS[row['kind']]}")
    if row["prefill_ratio"]["median"] < 1:
        missed.append(f"prefill {row['prefill_ratio']['median']:.3f} < 1")
    return missed


def _summary_line(r: dict[str, Any]) -> str:
    a, b, missed = r["pruned"], r["dense"], short(r)
    return (
        f"{r['cut']}: {r['keeps']}\n"
        f"  decode {a['decode_tps']:.1f} against {b['decode_tps']:.1f} tokens/s: {_quartiles(r['decode_ratio'])}; "
        f"bytes {r['bytes_ratio']:.3f}x; gain share {r['gain_share']:.3f}\n"
        f"  prefill {a['prefill_tps']:.0f} against {b['prefill_tps']:.0f} tokens/s: {_quartiles(r['prefill_ratio'])}\n"
        f"  of the bandwidth, {r['read_gbs']:.1f} GB/s: {a['read_fraction']:.2f} against {b['read_fraction']:.2f}\n"
        f"  weights {r['weights_ratio']:.3f}x, in memory {r['memory_ratio']:.3f}x\n"
        f"  {'below the bar: ' + ', '.join(missed) if missed else 'reaches its bars'}"
    )


def _quartiles(ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.3f}x ({low:.3f} to {high:.3f}, {ratio['pairs']} pairs)"


def _record(out: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds already, or nothing yet. InputError: it was made in another way."""
    if out is None or not out.exists():
        return settings | {"results": []}
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    other = [key for key, value in settings.items() if record.get(key) != value]
    if other:
        recorded, wanted = record.get(other[0]), settings[other[0]]
        msg = f"{out.name}: its {other[0]} is {recorded!r}, this run's {wanted!r}; delete the file, or name another"
        raise InputError(msg)
    return record


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.prune", description="what a cut gains")
    parser.add_argument("--cut", choices=CUTS, nargs="+", default=list(CUTS), help="default: every one")
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=[*DTYPES, *QUANTIZED], default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefills", type=int, default=6, help="in a round (default: 6)")
    parser.add_argument("--work", type=Path, help="keep the checkpoints here (default: a temporary directory)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, next to the rows that are there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure every cut that was asked for."""
    args = _parser().parse_args(argv)
    counts = {name: getattr(args, name) for name in ("threads", "prompt", "new", "rounds", "prefills")}
    if min(counts.values()) < 1:
        msg = f"{', '.join(f'--{name}' for name in counts)}: expected at least 1 each"
        raise InputError(msg)
    setting = Setting(args.shape, args.dtype, **counts)
    command = public_command("python -m miaotui.tools.bench.prune", argv if argv is not None else sys.argv)
    settings = {"machine": machine(), "versions": versions(), "shape": args.shape, "dtype": args.dtype, **counts}
    record = _record(args.out, settings)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.work or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        for name in args.cut:
            row = measure(name, setting, directory) | {"command": command}
            print_out(_summary_line(row))
            rows = {r["cut"]: r for r in record["results"]} | {name: row}
            record["results"] = [rows[n] for n in CUTS if n in rows]
            if args.out:
                _write(args.out, record)
    return 0


def _write(out: Path, record: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(out)


if __name__ == "__main__":
    sys.exit(main())

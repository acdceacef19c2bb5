"""`miaotui bench`: how fast a model runs here, next to what this machine can read in the same seconds.

Prefill and decode are timed as whole steps from Python, as `generate` runs them. Between every few tokens of decoding
the machine's read bandwidth is measured (`roofline.ReadSum`), and the fraction of it that decoding reached is the
median over these pairs. The fraction counts the weights only, once a token; the KV cache is reported next to it.
A model that fits in the processor's caches can exceed 1.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError, InputError
from ...limits import Request
from ...loader.write import write_whole
from ...runtime.cores import available_threads
from ...sizes import counted
from ..bench.profile import profile, profile_table, write_trace
from ..bench.roofline import ReadSum, machine, versions
from ..bench.shared import GB, bytes_per_step, open_session, peak_memory, print_out, process_age, public_command
from ..perplexity import check_predicts
from .arguments import (
    add_adapter,
    add_precision,
    add_profile,
    add_prune,
    add_quantize,
    given_model,
    given_path,
    prune_of,
)
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from ...runtime.session import Session
    from ..bench.cuda_roofline import DeviceMemory

    #: Has `round()`: bytes a second that the memory gives.
    Bandwidth = ReadSum | DeviceMemory

__all__ = ["add_arguments", "main", "measure"]

SLICE = 8  # tokens between two readings of the bandwidth
PAUSE = 0.3  # seconds until the threads of the one measured last, which look for work for some 20 ms, are asleep
ONCE = ("start_to_first_token_s", "peak_memory_bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--model",
        type=given_model,
        metavar="PATH",
        help="checkpoint directory or hub name (default: the demo model that is included)",
    )
    add_adapter(parser)
    add_quantize(parser)
    add_prune(parser)
    add_precision(parser)
    add_profile(parser, "--tuned", auto=False)
    parser.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cpu",
        help="cpu (default) or cuda; all figures of a GPU: python -m miaotui.tools.bench.cuda",
    )
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="one or more counts, each measured (default: every core)"
    )
    parser.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens of the prompt (default: 128)")
    parser.add_argument("--new", type=int, default=64, metavar="N", help="tokens to decode (default: 64)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="times to do both (default: 5)")
    parser.add_argument("--profile", action="store_true", help="say where the time of a step goes, kernel by kernel")
    parser.add_argument("--trace", type=given_path, metavar="FILE", help="write the profile as a Chrome trace")
    parser.add_argument("--json", type=given_path, metavar="FILE", help="write the figures as JSON too")


def main(args: argparse.Namespace) -> int:
    """Measure, print, and write JSON where asked; 0."""
    _check(args)
    path = _resolve(args.model)
    record: dict[str, Any] = {
        "command": public_command("miaotui bench", sys.argv),
        "machine": machine(),
        "versions": versions(),
        "prompt": args.prompt,
        "new": args.new,
        "repeat": args.repeat,
        **_how(args),
    }
    record |= _model_facts(path, f"--model {args.model}")
    print_out(f"{record['model']}, {'/'.join(record['dtypes'])}, {record['parameters'] / 1e6:.1f} M parameters")
    print_out(f"{record['machine']['cpu']}, {counted(record['machine']['cores'], 'core')}")
    record["results"] = []
    if args.device == "cuda":
        from ..bench.cuda_roofline import cuda_versions, gpu  # noqa: PLC0415 - only where it is asked for

        record |= {"gpu": gpu(), "versions": cuda_versions()}
        print_out(record["gpu"]["name"])
    for threads in (args.threads or [available_threads()])[: 1 if args.device == "cuda" else None]:
        result = measure(path, threads, args.prompt, args.new, args.repeat, **_how(args))
        for name in ONCE:  # of the process, so only the first run tells
            record.setdefault(name, result.pop(name))
        print_out(_summary_line(result))
        record["results"].append(result)
        if args.profile:
            _profile(path, threads, args, result["read_gbs"])
    print_out(f"process start to first token {record[ONCE[0]]:.2f} s, peak memory {record[ONCE[1]] / 2**20:.0f} MiB")
    if args.json:
        write_whole(args.json, json.dumps(record, indent=1) + "\n")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is: InputError."""
    for name in ("prompt", "new", "repeat"):
        if getattr(args, name) < 1:
            msg = f"--{name} {getattr(args, name)}: expected at least 1"
            raise InputError(msg)
    if not args.profile:
        refuse_given(args, add_arguments, ["trace"], "only with --profile, of which it is the picture")
    if args.device == "cuda" and len(args.threads or ()) > 1:
        refuse_given(args, add_arguments, ["threads"], "a GPU is measured once; give one count, or none")
    for threads in args.threads or ():
        Request(threads=threads)
    # A load's errors speak of the context, which nobody typed.
    args.max_context = args.prompt + args.new
    args.spelled = getattr(args, "spelled", {}) | {
        f"--max-context {args.max_context}": f"--prompt {args.prompt} --new {args.new}",
        "--max-context": "--prompt or --new",
    }


def _how(args: argparse.Namespace) -> dict[str, Any]:
    """What `load` is told besides the path and the limits."""
    how = {"device": args.device, "quantize": args.quantize, "prune": prune_of(args)}
    how |= {"kv_cache": args.kv_cache, "precision": args.precision}
    more = ("adapter", "prefill_chunk", "draft")
    return how | {n: getattr(args, n) for n in more if getattr(args, n, None) is not None}


def _profile(path: Path, threads: int, args: argparse.Namespace, read_gbs: float) -> None:
    """Print the tables of prefill and decode, and write the trace where asked."""
    model, session = open_session(path, threads, args.prompt + args.new, **_how(args))
    with model:
        profiled = profile(session, [i % session.n_vocab for i in range(args.prompt)])
    for phase, parts in profiled.items():
        print_out(f"{phase}, threads {threads}\n{profile_table(parts, read_gbs)}")
    if args.trace:
        write_trace(args.trace, profiled)


def measure(
    path: Path,
    threads: int,
    n_prompt: int,
    n_new: int,
    repeat: int,
    **how: Any,  # noqa: ANN401 - for `load`
) -> dict[str, Any]:
    """Load the model, run everything `repeat` times, and give the figures of one thread count.

    The peak of memory is read after the first run, before the region of the bandwidth measurement is taken. It and
    the seconds since the process started are the process's: of several thread counts only the first one's tell.
    """
    start = time.perf_counter()
    model, session = open_session(path, threads, n_prompt + n_new, **how)
    with model:
        loaded = time.perf_counter()
        prompt = [int(i) for i in np.random.default_rng(0).integers(0, session.n_vocab, n_prompt)]
        _timed(session, prompt, 0)
        first = time.perf_counter()
        age = process_age()
        _decode(session, n_prompt, min(n_new, 2))
        weights, cache = bytes_per_step(model.config, session.weights, n_prompt + n_new // 2, session.program.kv_cache)
        facts = {
            "threads": session.threads,
            "load_s": loaded - start,
            "load_to_first_token_s": first - start,
            "start_to_first_token_s": age,
            "peak_memory_bytes": peak_memory(),
            "weight_bytes_per_step": weights,
            "kv_bytes_per_step": cache,
        }
        with _memory(session.threads, **how) as bandwidth:
            return facts | _rounds(session, bandwidth, prompt, n_new, repeat, weights)


def _memory(threads: int, device: str = "cpu", **_: Any) -> Bandwidth:  # noqa: ANN401 - what `load` takes too
    """What reads the memory that the weights lie in."""
    if device == "cpu":
        return ReadSum(threads)
    from ..bench.cuda_roofline import DeviceMemory  # noqa: PLC0415 - only where it is asked for

    return DeviceMemory()


def _rounds(  # noqa: PLR0913, PLR0917 - one loop, named for its length
    session: Session, bandwidth: Bandwidth, prompt: Sequence[int], n_new: int, repeat: int, weights: int
) -> dict[str, Any]:
    """Prefill, and decode by turns with readings of the bandwidth, `repeat` times."""
    prefill: list[float] = []
    decode: list[float] = []
    reads: list[float] = []
    fractions: list[float] = []
    bandwidth.round()
    for _ in range(repeat):
        prefill.append(_timed(session, prompt, 0))
        for at in range(0, n_new, SLICE):
            seconds = _decode(session, len(prompt) + at, min(SLICE, n_new - at))
            time.sleep(PAUSE)
            reads.append(bandwidth.round())
            decode += seconds
            fractions.append(weights / statistics.median(seconds) / reads[-1])
    token = statistics.median(decode)
    return {
        "prefill_tps": len(prompt) / statistics.median(prefill),
        "time_to_first_token_s": statistics.median(prefill),
        "decode_tps": 1 / token,
        "decode_gbs": weights / token / GB,
        "read_gbs": statistics.median(reads) / GB,
        "read_fraction": statistics.median(fractions),
        "pairs": len(fractions),
    }


def _decode(session: Session, start: int, count: int) -> list[float]:
    """Feed the likeliest token `count` times from position `start`; the seconds of each."""
    return [_timed(session, [session.argmax], at) for at in range(start, start + count)]


def _timed(session: Session, ids: Sequence[int], start: int) -> float:
    """Seconds of a step, to its id: a GPU has begun when `step` returns, and is done when the id is read."""
    begin = time.perf_counter()
    session.step(ids, start)
    token = session.argmax
    seconds = time.perf_counter() - begin
    if token < 0:
        msg = f"the step of {len(ids)} tokens at {start} gave no id: its logits are not numbers"
        raise BackendError(msg)
    return seconds


def _resolve(name: str | None) -> Path:
    from ...loader.hub import locate  # noqa: PLC0415 - the command line's help must not wait for it
    from .. import demo  # noqa: PLC0415 - as above

    return locate(name) if name else demo.path()


def _model_facts(path: Path, typed: str) -> dict[str, Any]:
    """Say what is to be measured, from headers and config: no tensor's data is read. Errors call the model `typed`."""
    from ...loader.load_plan import make_load_plan  # noqa: PLC0415 - as above
    from ...loader.open import open_model  # noqa: PLC0415 - as above

    with open_model(path) as opened:
        check_predicts(opened.config, typed)
        return {
            "model": path.resolve().name,
            "dtypes": sorted({t.stored_as for t in opened.checkpoint.tensors.values()}),
            "parameters": make_load_plan(opened).parameters,  # numbers, not bytes
            "file_bytes": opened.checkpoint.file_bytes,
        }


def _summary_line(r: dict[str, Any]) -> str:
    return (
        f"threads {r['threads']}: prefill {r['prefill_tps']:.0f} tokens/s, decode {r['decode_tps']:.1f} tokens/s\n"
        f"  reads {r['decode_gbs']:.2f} GB/s of weights; the machine reads {r['read_gbs']:.1f} GB/s: "
        f"fraction {r['read_fraction']:.2f} (median of {r['pairs']} pairs)\n"
        f"  load {r['load_s']:.2f} s, load to first token {r['load_to_first_token_s']:.2f} s, "
        f"a later prompt's first token {r['time_to_first_token_s'] * 1e3:.1f} ms"
    )

"""Arguments that several commands share, and the model that they name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ProfileError
from ...sizes import parse_size

if TYPE_CHECKING:
    from ...limits import Request
    from ...loader.prune.forms import Forms
    from ...model import Model
    from ...profiles import Profile
    from ...runtime.spec import Config

__all__ = [
    "adapter_of",
    "adapters_of",
    "add_adapter",
    "add_adapters",
    "add_draft",
    "add_kv_cache",
    "add_limits",
    "add_model",
    "add_precision",
    "add_profile",
    "add_prune",
    "add_quantize",
    "chosen",
    "config_of",
    "given_model",
    "given_path",
    "load_model",
    "new_place",
    "profile_defaults",
    "profile_of",
    "prune_of",
    "request_of",
    "size",
]

#: What --memory-limit does.
MEMORY_LIMIT = "refuse to load a model for which more memory would be allocated, for instance 2GiB or 500MB"


def add_model(parser: argparse.ArgumentParser, default: str = "the demo model that is included") -> None:
    """Add `--model` and what says how it is read; `default`: what there is without one, in words."""
    parser.add_argument(
        "--model",
        type=given_model,
        metavar="PATH_OR_HUB",
        help=f"a Hugging Face directory, or a hub name such as org/name (default: {default})",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub name (default: its main branch)"
    )
    add_adapter(parser)
    add_quantize(parser)
    add_prune(parser)


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add `--adapter`."""
    parser.add_argument(
        "--adapter",
        type=given_model,
        metavar="PATH_OR_HUB",
        help="merge this PEFT LoRA adapter into the weights while reading them, before anything is cut or rounded",
    )


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Add `--quantize`."""
    parser.add_argument(
        "--quantize",
        metavar="HOW",
        help="round the matrices while reading them: int8 (8.5 bits a weight), int4a (5), int4 (4.5), or by role "
        "or layer, for instance int4,embed=int8 or int4,0=int8,2-4.down=int4a; none: what others have quantised (GPTQ, "
        "AWQ, FP8) becomes floats",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add `--precision`, and `--kv-cache`."""
    parser.add_argument(
        "--precision",
        choices=["exact", "int8", "bf16", "fast"],
        help="how products round their input: exact, int8, bf16 or fast (docs/precision.md; default: exact for floats, "
        "int8 for integers)",
    )
    add_kv_cache(parser)


def add_prune(parser: argparse.ArgumentParser) -> None:
    """Add `--prune` and its short forms."""
    group = parser.add_argument_group(
        "what to keep",
        "Cut the model while reading it: what is cut is never read. Layers, heads and dimensions are numbered from 0, "
        "as in the checkpoint; with --prune, as in what the plan leaves. Several options can be combined.",
    )
    group.add_argument(
        *("--prune", "--plan"),
        dest="prune",
        metavar="PLAN",
        help="keep what this file says: a plan (docs/plans.md), or mergekit's slices",
    )
    group.add_argument("--keep-layers", metavar="LAYERS", help="keep these layers, for instance 0-2 or 0,2,4-6")
    group.add_argument("--drop-layers", metavar="LAYERS", help="drop these layers")
    group.add_argument(
        "--drop-heads",
        action="append",
        metavar="L:HEADS",
        help="drop query heads of a layer, for instance 3:0,1; "
        "may be given several times. A key/value head goes with its queries",
    )
    group.add_argument(
        "--drop-experts",
        action="append",
        metavar="L:EXPERTS",
        help="drop experts of a layer, for instance 3:0,1; may be given several times",
    )
    group.add_argument("--drop-attention", metavar="LAYERS", help="drop the attention of these layers")
    group.add_argument("--drop-ffn", metavar="LAYERS", help="drop the feed-forward of these layers")
    group.add_argument(
        "--ffn",
        metavar="SHARE",
        help="keep this share of the feed-forward's neurons, for instance 0.75: those with the largest weights",
    )
    group.add_argument("--vocab", metavar="FILE", help="keep the tokens of this text, and the special ones")
    group.add_argument(
        "--vocab-fallback",
        metavar="WHAT",
        help="what replaces a token that was cut: bytes, unk, or a token's id "
        "(default: a text that needs one is refused)",
    )
    group.add_argument(
        "--width",
        metavar="DIMS",
        help="keep these dimensions of the model's width, for instance 0-63; or a share of them, for instance 0.75: "
        "those with the largest weights",
    )
    group.add_argument(
        "--sparsity",
        metavar="ZEROS",
        help="hold only the largest weights of the layers' matrices: 2:4 or another N:M, the share that is dropped "
        "such as 0.5, blocks such as 0.5/4x4, or stored: the zeros that the checkpoint has; by role: 2:4,down=0.5",
    )
    add_prune_encoder(parser)


def add_prune_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the short forms of an encoder-decoder: of its encoder, and of what its decoder reads of that."""
    group = parser.add_argument_group(
        "what to keep of an encoder-decoder",
        "The options above that speak of layers are for its decoder; these are for its encoder, and for the decoder's "
        "attention to it.",
    )
    for name, what in (
        ("keep-layers", "LAYERS"), ("drop-layers", "LAYERS"), ("drop-attention", "LAYERS"), ("drop-ffn", "LAYERS"),
        ("ffn", "SHARE"), ("sparsity", "ZEROS"),
    ):  # fmt: skip
        group.add_argument(f"--encoder-{name}", metavar=what, help=f"as --{name}, of the encoder")
    for name, of in (("encoder-drop-heads", "the encoder"), ("drop-cross-heads", "the attention to the encoder")):
        group.add_argument(f"--{name}", action="append", metavar="L:HEADS", help=f"as --drop-heads, of {of}")
    group.add_argument(
        "--only", metavar="STACK", help="encoder: keep the encoder alone, as a model that makes vectors of texts"
    )
    group.add_argument("--drop-cross-attention", metavar="LAYERS", help="drop these layers' attention to the encoder")


def prune_of(args: argparse.Namespace) -> Forms | dict[str, Any] | None:
    """What `add_prune` was told, or a profile, as `load(prune=)` takes it; None where nothing was.

    A profile's plan counts where no option cuts anything. Errors name the options.
    """
    from ...loader.prune.forms import FORMS, Forms  # noqa: PLC0415 - help must not wait for it

    names = [name for name in FORMS if name != "plan"]
    forms = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    typed = Forms(forms | ({} if args.prune is None else {"plan": args.prune}), _option)
    tuned: str | dict[str, Any] | None = getattr(args, "tuned_prune", None)
    return typed or (Forms.of_text(tuned) if isinstance(tuned, str) else tuned)


def _option(name: str, value: object) -> str:
    """A short form as it was typed."""
    option = f"--{name.replace('_', '-')}" if name != "plan" else "--prune"
    return " ".join(f"{option} {v or repr(v)}" for v in (value if isinstance(value, list) else [value]))


def add_kv_cache(parser: argparse.ArgumentParser) -> None:
    """Add `--kv-cache`."""
    parser.add_argument(
        "--kv-cache",
        metavar="DTYPE",
        default="f32",
        help="how keys and values are kept: f32 (default), bf16 (half the memory) or int8 (a quarter)",
    )


def add_draft(parser: argparse.ArgumentParser) -> None:
    """Add `--draft`."""
    parser.add_argument(
        "--draft",
        metavar="WHAT",
        help="guess tokens ahead and check several in one pass, which changes no answer: ngram (from what the text "
        "repeats), a part of the model such as keep-layers=0-2, or the path of a smaller model with its vocabulary",
    )


def add_adapters(parser: argparse.ArgumentParser, *, chosen: bool = True) -> None:
    """Add `--adapters`, and `--adapter-name` where one of them is `chosen`."""
    parser.add_argument(
        "--adapters",
        action="append",
        type=_named_path,
        metavar="NAME=PATH",
        help="keep this adapter, a directory that PEFT wrote, apart from the model; may be given several times "
        "(docs/adapters.md)",
    )
    if chosen:
        parser.add_argument(
            "--adapter-name", metavar="NAME", help="which of --adapters reads and writes the text (default: the first)"
        )


def _named_path(text: str) -> tuple[str, str]:
    """A name and a path, for argparse."""
    name, _, path = text.partition("=")
    if not name or not path:
        msg = f"expected NAME=PATH, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return name, path


def adapters_of(args: argparse.Namespace) -> dict[str, str] | None:
    """Directories of adapters by name. InputError for a name that is given twice."""
    given: list[tuple[str, str]] = getattr(args, "adapters", None) or []
    names = [name for name, _ in given]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        msg = f"--adapters {twice}=...: this name is given twice; each adapter needs its own"
        raise InputError(msg)
    return dict(given) or None


def adapter_of(args: argparse.Namespace) -> str | None:
    """The adapter that is chosen, None where there are none. InputError for a name that is not among them."""
    adapters, name = adapters_of(args) or {}, args.adapter_name
    if name is not None and name not in adapters:
        there = f"expected one of {', '.join(adapters)}" if adapters else "give --adapters NAME=PATH, too"
        msg = f"--adapter-name {name}: there is no such adapter; {there}"
        raise InputError(msg)
    return name if name is not None else next(iter(adapters), None)


def add_limits(parser: argparse.ArgumentParser, memory: str = MEMORY_LIMIT) -> None:
    """Add what bounds a loaded model: `--threads`, `--max-context`, `--memory-limit`, `--kv-cache`, `--precision`.

    `memory`: what --memory-limit does.
    """
    add_precision(parser)
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to compute: cpu (default) or cuda"
    )
    parser.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="threads to compute with, at most 1024, or auto (default): as many of the cores as a step is worth",
    )
    parser.add_argument(
        "--max-context", type=int, metavar="N", help="tokens of prompt and answer to reserve memory for"
    )
    parser.add_argument(
        "--memory-limit",
        type=size,
        metavar="SIZE",
        help=memory,
    )
    add_profile(parser)


def threads(text: str) -> int | str:
    """A count, or "auto", for argparse."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        msg = f"expected a whole number of at least 1, or auto, not {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def add_profile(parser: argparse.ArgumentParser, option: str = "--profile", *, auto: bool = True) -> None:
    """Add `--profile`, whose values are defaults of the other options, and `--auto`."""
    parser.add_argument(
        option,
        dest="tuned",
        type=given_path,
        metavar="FILE",
        help="a profile that `miaotui tune` wrote for this model and machine; options that are given win over it",
    )
    if auto:
        parser.add_argument(
            "--auto",
            action="store_true",
            help="round where the model does not fit the free memory, as prediction alone says; a note says what was "
            "picked",
        )


def profile_of(args: argparse.Namespace) -> Profile | None:
    """The profile that was named. ProfileError, which begins with the option."""
    if getattr(args, "tuned", None) is None:
        return None
    from ...profiles import read_profile  # noqa: PLC0415 - only where one is given

    try:
        return read_profile(args.tuned)
    except ProfileError as e:
        msg = f"{_profile_option(args)} {e}"
        raise ProfileError(msg) from None


def profile_defaults(args: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What a profile and `--auto` make the defaults of a command's options, by the names that `args` has for them."""
    actions = {action.dest: action for action in parser._actions}  # noqa: SLF001 - argparse lists them nowhere else
    profile = profile_of(args)
    auto = {"kv_cache": None} if getattr(args, "auto", False) else {}  # None: it was not typed, and may be picked
    if profile is None:
        return auto
    if auto:
        msg = "--auto: not with --profile, which says what to pick; leave one of them out"
        raise InputError(msg)
    of_load = {name: value for name, value in profile.load.items() if name not in ("prune", "threads")}
    threads = profile.load.get("threads")
    if threads is not None:
        of_load["threads"] = [threads] if "threads" in actions and actions["threads"].nargs == "+" else threads
    drawn = profile.generate if "temperature" in actions else {}
    return (
        of_load
        | {name: value for name, value in drawn.items() if name in actions}
        | {"tuned_prune": profile.load.get("prune")}
        | auto
    )


def _profile_option(args: argparse.Namespace) -> str:
    return "--tuned" if args.command == "bench" else "--profile"


def given_path(text: str) -> Path:
    """A path, for argparse; an empty one is none, where `Path` takes it for the working directory."""
    if not text:
        msg = "found an empty path"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def given_model(text: str) -> str:
    """A directory or a hub name, for argparse."""
    given_path(text)
    return text


def new_place(out: Path) -> Path:
    """OUT, where it can be made. InputError, which names the argument."""
    from ..export import check_new  # noqa: PLC0415 - help must not wait for it

    try:
        return check_new(out)
    except InputError as e:
        msg = f"OUT: {e}"
        raise InputError(msg) from e


class Size(int):
    """Bytes, with the text they were read from, for errors."""

    typed: str


def size(text: str) -> Size:
    """Bytes, as `parse_size` reads them, for argparse."""
    try:
        number = Size(parse_size(text))
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    number.typed = text
    return number


def chosen(args: argparse.Namespace) -> str | Path:
    """Return the model that was asked for, or the demo's directory."""
    if args.model is not None:
        return str(args.model)
    from .. import demo  # noqa: PLC0415 - only where it is used

    return demo.path()


def request_of(args: argparse.Namespace) -> Request:
    """What `add_limits`, `add_quantize` and `add_prune` were told, for what is known before a load."""
    from ...limits import Request  # noqa: PLC0415 - help must not wait for it

    tuned = _tuned(args)
    tuned.pop("draft", None)  # which is a load's, and no limit
    return Request(
        device=args.device,
        threads=args.threads,
        max_context=args.max_context,
        memory_limit=getattr(args, "memory_limit", None),
        quantize=args.quantize,
        prune=prune_of(args),
        kv_cache=args.kv_cache or "f32",
        precision=args.precision,
        adapter=getattr(args, "adapter", None),
        adapters=adapters_of(args),
        **tuned,
    )


def _tuned(args: argparse.Namespace) -> dict[str, Any]:
    """What a profile may say for which this command has no option."""
    names = ("prefill_chunk", "cache_tokens", "draft")
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def located(args: argparse.Namespace) -> Path:
    """Where the model that was asked for lies; a hub name is looked up once."""
    from ...loader.hub import locate  # noqa: PLC0415 - help must not wait for it

    if args.model is None and args.revision is not None:
        msg = f"--revision {args.revision}: the demo model has no revisions; name a model of the hub with --model"
        raise InputError(msg)
    if getattr(args, "directory", None) is None:
        args.directory = locate(chosen(args), revision=args.revision)
    directory: Path = args.directory
    return directory


def config_of(args: argparse.Namespace) -> Config:
    """What kind of model was asked for, from its config and headers alone; limits are checked before it is opened."""
    from ...loader.open import open_model  # noqa: PLC0415 - help must not wait for it

    request_of(args)
    with open_model(located(args)) as opened:
        return opened.config


def load_model(args: argparse.Namespace) -> Model:
    """Load the model that was asked for, within the limits asked for."""
    from ...runtime.cores import available_threads  # noqa: PLC0415 - help must not wait for it

    directory = located(args)
    from ...model import load  # noqa: PLC0415 - loads numba: after the arguments were checked

    options: dict[str, Any] = {
        "device": args.device,
        "threads": args.threads,
        "max_context": args.max_context,
        "memory_limit": args.memory_limit,
        "quantize": args.quantize,
        "prune": prune_of(args),
        "kv_cache": args.kv_cache,
        "precision": args.precision,
        "adapter": args.adapter,
        "adapters": adapters_of(args),
        **_tuned(args),
    }
    if args.auto:
        options = {name: value for name, value in options.items() if value is not None}
    try:
        model = load(directory, profile=args.tuned, auto=args.auto, **options)
    except ProfileError as e:
        msg = f"{_profile_option(args)} {args.tuned}: {str(e).removeprefix('profile: ')}"
        raise ProfileError(msg) from None
    if model.picked is not None:
        print(f"note: {model.picked}", file=sys.stderr)
    if isinstance(args.threads, int) and args.threads > available_threads():
        cores = available_threads()
        told = f"note: --threads {args.threads}: this process may use {cores} cores, and no more threads run at once"
        print(told, file=sys.stderr)
    for line in model.corrections:
        print(f"note: {line}", file=sys.stderr)
    return model

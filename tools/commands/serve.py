"""`miaotui serve`: models over HTTP, in the words of OpenAI's API."""

from __future__ import annotations

import argparse
import ipaddress
import re
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import BackendError, InputError, MemoryLimitError
from ...machine import left_in_groups
from .. import demo
from .arguments import add_draft, add_limits, add_prune, add_quantize, config_of, given_model, given_path, load_model

if TYPE_CHECKING:
    from ...model import Model
    from ..server.served import Served
    from ..server.settings import Settings

__all__ = ["add_arguments", "main"]

#: A name that is given with a model or adapter.
_NAME = re.compile(r"[\w.:-]+(/[\w.:-]+)?")
#: A name by which clients call the server, and an address of IPv6.
_HOST, _ADDRESS = re.compile(r"[\w.-]+"), re.compile(r"[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*")
#: Texts of the longest length that the cache holds at once, where --cache-tokens is not given.
TEXTS = 8
#: Bytes of a control group's limit that no model may take: for tokenizers, requests and answers.
SPARE = 128 << 20
#: What answers without --model, by the names that requests have for them.
INCLUDED = ("chat", "story")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--model",
        dest="models",
        action="append",
        type=_model,
        metavar="PATH_OR_HUB[=NAME]",
        help="serve this model, by the name of its directory or hub name, or by NAME; may be given several times "
        "(default: the included chat and story models)",
    )
    parser.add_argument(
        "--adapter",
        dest="named_adapters",
        action="append",
        type=_adapter,
        metavar="NAME=PATH[@MODEL]",
        help="serve this PEFT LoRA adapter of a model (default: the first) as a model NAME; may be given several times",
    )
    add_quantize(parser)
    add_prune(parser)
    add_limits(
        parser,
        "refuse to start if more memory would be allocated for a model and its cache, for instance 2GiB or 500MB; it "
        "holds for each model by itself, and Python, requests and weights that are used in place are not counted "
        f"(default: what a control group's limit leaves for all models, less {SPARE >> 20} MiB)",
    )
    parser.add_argument(
        "--cache-tokens",
        type=int,
        metavar="N",
        help=f"tokens of all texts together that a model's cache holds (default: {TEXTS} times its context)",
    )
    add_draft(parser)
    _add_server(parser)


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the server")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="listen here (default: this machine only)"
    )
    group.add_argument("--port", type=_port, default=8000, metavar="N", help="and here; 0 picks one (default: 8000)")
    group.add_argument(
        "--api-keys", type=given_path, metavar="FILE", help="answer only requests with a key of this file, one a line"
    )
    group.add_argument(
        "--reuse",
        choices=("shared", "per-key"),
        default="shared",
        help="whose texts may reuse what is in the cache where they begin alike: everybody's, or those of the same "
        "key, so that no answer's time tells of others' texts (default: %(default)s)",
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        type=_host,
        metavar="NAME",
        help="a name by which clients may call this server; may be given several times (default: on this machine "
        "only its own names, elsewhere any)",
    )
    group.add_argument(
        "--tool-calls",
        metavar="FORMAT",
        help="how the models write calls of tools, where their chat templates do not tell: hermes, qwen3_coder, "
        "llama3_json, mistral, pythonic or none",
    )
    group.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        help="of requests that name none, where the model's files name none either (default: 1; 0 is greedy)",
    )
    for name, kind, default, text in (
        ("--max-requests", int, 256, "requests that are answered at once, and wait; more get status 429"),
        ("--max-tokens-in-flight", int, 1 << 20, "tokens that their prompts and answers may have together"),
        ("--request-timeout", float, 600, "seconds that an answer may take"),
        ("--grace", float, 20, "seconds that running answers may take after SIGTERM"),
    ):
        group.add_argument(name, type=kind, default=default, metavar="N", help=f"{text} (default: {default})")
    group.add_argument(
        "--trace", action="store_true", help="show at /trace every step that a model computes for a text; slow"
    )
    group.add_argument("--log-texts", action="store_true", help="write prompts and answers into the access log too")


def _host(text: str) -> str:
    """A name or address, as requests have it, for argparse."""
    name = text.removeprefix("[").removesuffix("]").lower()
    if not _HOST.fullmatch(name) and not (":" in name and _ADDRESS.fullmatch(name)):
        msg = f"expected a name or an address, without https:// and without a port, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return name


def _port(text: str) -> int:
    if not text.isdigit() or not text.isascii() or len(text) > 5 or int(text) > 65535:  # noqa: PLR2004 - TCP's
        msg = f"expected a number from 0 to 65535, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _model(text: str) -> tuple[str, str]:
    """A name and a directory or hub name, for argparse."""
    path, equals, name = text.rpartition("=")
    if not equals or "/" in name:
        path, name = text, ""
    given_model(path)
    return _checked(name or _own_name(path)), path


def _own_name(path: str) -> str:
    """A directory's name; a hub name as it is."""
    if _NAME.fullmatch(path) and not Path(path).exists():
        return path
    return re.sub(r"[^\w.:-]", "-", Path(path).resolve().name) or "model"


def _adapter(text: str) -> tuple[str, str, str]:
    """Name, path, and the model's name, for argparse."""
    name, _, rest = text.partition("=")
    path, at, model = rest.rpartition("@")
    path, model = (path, model) if at and path else (rest, "")
    if not name or not path:
        msg = f"expected NAME=PATH or NAME=PATH@MODEL, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return _checked(name), path, model


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        msg = f"{name!r} is no name for a model; give one of letters, digits, '_', '.', ':' and '-', as PATH=NAME"
        raise argparse.ArgumentTypeError(msg)
    return name


def main(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C; 0."""
    try:
        from ..server.access_log import log_to  # noqa: PLC0415 - an extra
        from ..server.app import make_app  # noqa: PLC0415 - an extra
        from ..server.running import Server, listening, served_at  # noqa: PLC0415 - an extra
        from ..server.security import read_keys  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = f"the server needs starlette, uvicorn, prometheus-client and jinja2 ({e}): pip install 'miaotui[serve]'"
        raise BackendError(msg) from e
    settings = _settings(args)
    keys = None if args.api_keys is None else read_keys(args.api_keys)
    with ExitStack() as opened:
        made = opened.enter_context(listening(args.host, args.port))
        served = _served(args, opened)
        app, state = make_app(served, settings, keys)
        log_to(sys.stderr)
        url = served_at(made)
        print(f"{', '.join(entry.name for entry in served)}: {url}/v1", flush=True)
        if settings.trace:
            print(f"what they compute: {url}/trace", flush=True)
        Server(app, state).run_on(made)
    return 0


def _is_own(host: str) -> bool:
    """Whether only this machine itself can ask there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _settings(args: argparse.Namespace) -> Settings:
    from ..server.security import LOOPBACK  # noqa: PLC0415 - an extra
    from ..server.settings import Settings  # noqa: PLC0415 - as above

    names = ("max_requests", "max_tokens_in_flight", "request_timeout", "grace")
    for name in names:
        least = 0 if name == "grace" else 1
        if not least <= getattr(args, name) <= 2**40:
            msg = f"--{name.replace('_', '-')} {getattr(args, name)}: expected a number, at least {least}"
            raise InputError(msg)
    temperature = 1.0 if args.temperature is None else args.temperature
    if not 0 <= temperature <= 100:  # noqa: PLR2004 - as a request's
        msg = f"--temperature {temperature:g}: expected a number from 0 to 100"
        raise InputError(msg)
    hosts = tuple(args.allowed_host or ()) or ((*LOOPBACK, args.host.lower()) if _is_own(args.host) else ())
    given = {name: getattr(args, name) for name in names}
    if args.reuse == "per-key" and args.api_keys is None:
        msg = "--reuse per-key: there are no keys; give them with --api-keys FILE"
        raise InputError(msg)
    return Settings(
        **given, reuse=args.reuse, temperature=temperature, hosts=hosts, log_texts=args.log_texts, trace=args.trace
    )


def _served(args: argparse.Namespace, opened: ExitStack) -> Served:
    """Load what is asked for. Errors: those of `load`, and `InputError` for names."""
    from ..server.served import Served  # noqa: PLC0415 - help must not wait for it
    from ..server.tool_calls import FORMATS  # noqa: PLC0415 - as above

    if args.tool_calls not in {None, *FORMATS}:
        msg = f"--tool-calls {args.tool_calls}: expected one of {', '.join(FORMATS)}"
        raise InputError(msg)
    wanted: list[tuple[str, str]] = args.models or [(name, str(demo.path(name))) for name in INCLUDED]
    names = [name for name, _ in wanted]
    adapters: list[tuple[str, str, str]] = [(n, path, of or names[0]) for n, path, of in args.named_adapters or ()]
    every = [*names, *(name for name, _, _ in adapters)]
    if twice := next((name for i, name in enumerate(every) if name in every[:i]), None):
        msg = f"--model {twice}: two have this name; give each its own, as --model PATH=NAME"
        raise InputError(msg)
    if unknown := next((of for _, _, of in adapters if of not in names), None):
        msg = f"--adapter: there is no model {unknown} that it could adapt; expected one of {', '.join(names)}"
        raise InputError(msg)
    if args.tuned is not None and len(wanted) > 1:
        msg = "--profile: a profile is of one model; serve one, or leave it out"
        raise InputError(msg)
    models: dict[str, Model] = {}
    left = left_in_groups() if args.memory_limit is None and args.device == "cpu" else None
    for name, path in wanted:
        of_it = [(n, adapter) for n, adapter, of in adapters if of == name]
        taken = sum(model.memory["allocated"] for model in models.values())
        models[name] = opened.enter_context(_loaded(args, path, of_it, None if left is None else left - taken))
    return Served(models, {name: (of, name) for name, _, of in adapters}, args.tool_calls)


def _loaded(args: argparse.Namespace, path: str, adapters: list[tuple[str, str]], left: int | None) -> Model:
    """The model, within --memory-limit, or else within what a control group leaves (`left`).

    Pages of the cache are taken when texts come: without this check the kernel would kill the server then.
    """
    with suppress(OSError, RuntimeError):  # `Served.told` finds absolute paths alone
        path = str(lies.absolute()) if (lies := Path(path).expanduser()).exists() else path
    own = argparse.Namespace(**{**vars(args), "model": path, "revision": None, "adapter": None, "adapters": adapters})
    if own.cache_tokens is None and own.device == "cpu":
        config = config_of(own)
        if config.writes:
            from ...limits import DEFAULT_CONTEXT  # noqa: PLC0415 - help must not wait for it

            own.cache_tokens = TEXTS * (own.max_context or min(config.n_context, DEFAULT_CONTEXT))
    if left is None:
        return load_model(own)
    own.memory_limit = max(1, left - SPARE)
    try:
        return load_model(own)
    except MemoryLimitError as e:
        less = "" if own.cache_tokens is None else f"; so does a smaller cache_tokens (now {own.cache_tokens:,})"
        there = f"the {own.memory_limit:,} that this process's control group leaves"
        said = re.sub(r"memory_limit=[\d,]+", there, str(e))
        kept = f"{SPARE >> 20} MiB of the group's limit are kept for requests, unless --memory-limit is given"
        msg = f"{said}{less}; {kept}"
        raise MemoryLimitError(msg) from e

"""Options of commands that write text: how the next token is drawn, and what changes its score."""

from __future__ import annotations

import argparse
import json
from shlex import split
from typing import TYPE_CHECKING, Any

from ...errors import InputError, shown
from ...runtime.sampling_params import ORDER, SamplingParams
from .unheard import refuse_given

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RULES", "SAMPLING", "add_rules", "add_sampling", "check_sampling", "ids", "token"]

#: Numbers of `add_sampling`: option, its kind, its letter, and what it does.
_NUMBERS: tuple[tuple[str, Callable[[str], float], str, str], ...] = (
    ("temperature", float, "T", "below 1 safer, above 1 wilder; 0 is greedy"),
    ("top-k", int, "K", "draw from the K likeliest tokens; 0 is off"),
    ("top-p", float, "P", "draw from the fewest tokens whose probabilities sum to P"),
    ("min-p", float, "P", "draw only tokens at least P times as likely as the likeliest"),
    ("repetition-penalty", float, "X", "above 1: make tokens that already occur less likely"),
)
_STAGES: tuple[tuple[str, Callable[[str], float], str, str], ...] = (
    ("typical-p", float, "P", "draw from the tokens of the most usual surprise, whose probabilities sum to P"),
    ("epsilon-cutoff", float, "P", "draw only tokens of this probability at least"),
    ("eta-cutoff", float, "P", "the same, but lower where the distribution is flat"),
    ("top-n-sigma", float, "N", "draw only tokens at most N standard deviations of the logits below the likeliest"),
    ("top-h", float, "H", "draw from the likeliest tokens that have this share of the entropy; 0 is off"),
    ("mirostat", int, "2", "2: keep the surprise of what is drawn near --mirostat-tau"),
    ("mirostat-tau", float, "BITS", "the surprise that Mirostat aims at (default: 5)"),
    ("mirostat-eta", float, "X", "how fast Mirostat follows it (default: 0.1)"),
    ("dynatemp-range", float, "R", "a temperature from T - R to T + R, by the entropy; T is --temperature"),
    ("dynatemp-exponent", float, "X", "above 1: high ones only where the distribution is flat (default: 1)"),
    ("adaptive", float, "NATS", "greedy up to half of this entropy, and --temperature from one and a half of it on"),
    ("xtc-probability", float, "P", "how often the likeliest tokens are left out, but for the last of them"),
    ("xtc-threshold", float, "P", "the probability from which on a token is one of those (default: 0.1)"),
)
_PENALTIES: tuple[tuple[str, Callable[[str], float], str, str], ...] = (
    ("frequency-penalty", float, "X", "taken off a token's logit for each time that the answer has it"),
    ("presence-penalty", float, "X", "taken off a token's logit, once, where the answer has it"),
    ("guidance-scale", float, "G", "above 1: keep nearer to the prompt, by a second text without it (a decoder's)"),
    ("encoder-repetition-penalty", float, "X", "above 1: make tokens of the prompt likelier"),
    ("dry-multiplier", float, "X", "DRY: against going on with what the text has already; 0.8 is usual"),
    ("dry-base", float, "X", "by which factor that grows for each token that matches (default: 1.75)"),
    ("dry-allowed-length", int, "N", "how many tokens may match before it does (default: 2)"),
    ("dry-penalty-last-n", int, "N", "look for matches in the last N tokens (default: in all, -1)"),
)
#: What `add_sampling` declares.
SAMPLING = (
    *(name.replace("-", "_") for name, *_ in (*_NUMBERS, *_STAGES, *_PENALTIES)), "seed", "do_sample", "sampler_order",
    "logit_bias", "exponential_decay_length_penalty", "dry_sequence_breakers", "watermarking_config",
    "remove_invalid_values",
)  # fmt: skip
#: What `add_rules` declares.
RULES = (
    "min_new_tokens", "min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids", "forced_bos_token_id",
    "forced_eos_token_id", "decoder_start_token_id",
)  # fmt: skip


#: What says more of another option, and is not read without it.
_MORE = {
    "mirostat": ("mirostat_tau", "mirostat_eta"),
    "dynatemp_range": ("dynatemp_exponent",),
    "xtc_probability": ("xtc_threshold",),
    "dry_multiplier": ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add what says how the next token is drawn."""
    group = parser.add_argument_group(
        "sampling",
        "Without these the likeliest token is taken. Temperature, top-k, top-p or min-p turn sampling on. They apply "
        "in the order repetition penalty, temperature, top-k, top-p, min-p.",
    )
    _add(group, _NUMBERS)
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="which of the possible texts (default: drawn afresh, and told with the statistics)",
    )
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--sample", dest="do_sample", action="store_true", default=None,
        help="sample, whatever else is given; with what the model's generation_config.json says of it",
    )  # fmt: skip
    how.add_argument("--greedy", dest="do_sample", action="store_false", help="do not sample, whatever else is given")
    group = parser.add_argument_group(
        "sampling, continued",
        "docs/sampling.md has the formulas. These turn sampling on, but for --sampler-order and what says more of "
        "another.",
    )
    _add(group, _STAGES)
    group.add_argument(
        "--sampler-order", type=_stages, metavar="STAGES", help=f"the order of the stages (default: {','.join(ORDER)})"
    )
    group = parser.add_argument_group("penalties and biases", "They change logits, of greedy answers too.")
    _add(group, _PENALTIES)
    group.add_argument(
        "--dry-sequence-breaker",
        dest="dry_sequence_breakers",
        action="append",
        metavar="STR",
        help="a text at which a match ends; may be given several times "
        "(default: newline, colon, quotation mark, asterisk)",
    )
    group.add_argument(
        "--logit-bias",
        action=_Biases,
        type=_bias,
        metavar="ID=X",
        help="add X to the logit of this token id; may be given several times",
    )
    group.add_argument(
        "--exponential-decay-length-penalty",
        type=_decay,
        metavar="N,X",
        help="after N tokens the end becomes likelier, by the factor X for each further one",
    )
    group.add_argument(
        "--watermarking-config",
        type=_watermark,
        metavar="JSON",
        help="mark the answer: transformers' WatermarkingConfig as an object, or some of it, for instance "
        "'{\"bias\": 2.5}'; {} is its defaults, false is off whatever generation_config.json says",
    )
    group.add_argument(
        "--remove-invalid-values",
        action="store_true",
        default=None,
        help="draw although logits are NaN or infinite: as if they were 0, or the largest or least finite ones",
    )


def check_sampling(args: argparse.Namespace) -> None:
    """Errors: `InputError`: an option says more of one that is not given."""
    for name, more in _MORE.items():
        if getattr(args, name) is None:
            refuse_given(args, add_sampling, more, f"only with --{name.replace('_', '-')}")


class Drawing(dict[str, Any]):
    """Parameters of `generate` that say how ids are drawn, and the words that they were given in."""

    def __init__(self, typed: str, of: Mapping[str, Any]) -> None:
        """What was typed, and what it says."""
        super().__init__(of)
        self.typed = typed


def drawing(text: str) -> Drawing:
    """Options of sampling in one word, without their dashes ("temperature=0.8 top-k=40"), for argparse."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_sampling(parser)
    try:
        words = [
            f"--{name.replace('_', '-')}{by}{value}" for name, by, value in (w.partition("=") for w in split(text))
        ]
        found, unknown = parser.parse_known_args(words)
        given = {name: value for name in SAMPLING if (value := getattr(found, name)) is not None}
        if unknown or not given or "seed" in given:
            what = "nothing" if not words else (unknown or ["--seed"])[0].removeprefix("--")
            msg = f"expected options of sampling such as temperature=0.8 top-k=40, but not seed, found {what}"
            raise argparse.ArgumentTypeError(msg)
        check_sampling(found)
        SamplingParams(**{name: given[name] for name in SamplingParams.__dataclass_fields__ if name in given})
    except (argparse.ArgumentError, InputError, ValueError) as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return Drawing(" ".join(text.split()), given)


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Add what says which tokens may come."""
    group = parser.add_argument_group(
        "which tokens may come",
        "TOKEN is an id, or a token as the tokenizer spells it, for instance a language's: fra_Latn.",
    )
    group.add_argument("--min-new-tokens", type=int, metavar="N", help="do not end before N tokens")
    group.add_argument("--min-length", type=int, metavar="N", help="the same, the prompt's counted (of a decoder)")
    group.add_argument("--no-repeat-ngram-size", type=int, metavar="N", help="no run of N tokens comes twice; 0 is off")
    group.add_argument(
        "--encoder-no-repeat-ngram-size", type=int, metavar="N", help="no run of N tokens of the prompt comes; 0 is off"
    )
    group.add_argument(
        "--bad-words-ids",
        action="append",
        type=ids,
        metavar="IDS",
        help="this run of ids never comes, for instance 17 or 5,9; may be given several times",
    )
    group.add_argument(
        "--sequence-bias",
        action="append",
        type=_run_bias,
        metavar="IDS=X",
        help="add X to the logit of a run's last id where the others came, for instance 5,9=-2; "
        "may be given several times",
    )
    group.add_argument("--suppress-tokens", type=ids, metavar="IDS", help="these ids never come, for instance 5,9")
    group.add_argument("--begin-suppress-tokens", type=ids, metavar="IDS", help="these ids do not come first")
    group.add_argument(
        "--forced-decoder-ids",
        action="append",
        type=_place,
        metavar="AT=ID",
        help="this id is the text's token number AT, from 0, the prompt's counted; may be given several times",
    )
    for name, what in (
        ("forced-bos-token-id", "an encoder-decoder's first token, such as the language to translate into"),
        ("forced-eos-token-id", "the last token, where --max-new-tokens ends the text"),
        ("decoder-start-token-id", "what an encoder-decoder's decoder reads first"),
    ):
        group.add_argument(f"--{name}", type=token, metavar="TOKEN", help=f"{what} (default: as the model's files say)")


def _add(group: argparse._ArgumentGroup, options: tuple[tuple[str, Callable[[str], float], str, str], ...]) -> None:
    for name, kind, letter, what in options:
        group.add_argument(f"--{name}", type=kind, metavar=letter, help=what)


class _Biases(argparse.Action):
    """Pairs as one dict: the last of an id counts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - argparse's
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,  # noqa: ARG002
    ) -> None:
        assert isinstance(values, tuple)  # noqa: S101 - as `_bias` has it
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), values[0]: values[1]})


def token(text: str) -> int | str:
    """An id, or a token's text, for argparse."""
    try:
        return int(text)
    except ValueError:
        return text


def ids(text: str) -> list[int]:
    """Ids, for argparse."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        msg = f"expected token ids such as 17 or 5,9, found {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _stages(text: str) -> list[str]:
    """Names of stages, for argparse; "top-k", as its option is spelled, is "top_k"."""
    names = [name.strip().replace("-", "_") for name in text.split(",")]
    try:
        SamplingParams(sampler_order=tuple(names))
    except InputError as e:
        raise argparse.ArgumentTypeError(str(e).removeprefix(f"sampler_order={shown(tuple(names))}: ")) from None
    return names


def _bias(text: str) -> tuple[int, float]:
    run, number = _run_bias(text)
    if len(run) != 1:
        msg = f"expected one token id and a number such as 17=-2, found {text!r}; --sequence-bias takes runs"
        raise argparse.ArgumentTypeError(msg)
    return run[0], number


def _run_bias(text: str) -> tuple[list[int], float]:
    run, _, number = text.rpartition("=")
    try:
        return [int(part) for part in run.split(",")], float(number)
    except ValueError:
        msg = f"expected token ids and a number such as 17=-2 or 5,9=-2, found {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _place(text: str) -> tuple[int, int]:
    at, _, which = text.partition("=")
    try:
        return int(at), int(which)
    except ValueError:
        msg = f"expected a place and a token id such as 3=17, found {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def _watermark(text: str) -> dict[str, object] | bool:
    """An object, or false, for argparse; what stands in it is checked with everything else."""
    try:
        made = json.loads(text)
    except (ValueError, RecursionError):
        made = None
    if made is False or isinstance(made, dict):
        return made
    msg = f'expected a JSON object such as {{"bias": 2.5}}, or false, found {text!r}'
    raise argparse.ArgumentTypeError(msg)


def _decay(text: str) -> tuple[int, float]:
    after, _, factor = text.partition(",")
    try:
        return int(after), float(factor)
    except ValueError:
        msg = f"expected a number of tokens and a factor such as 50,1.05, found {text!r}"
        raise argparse.ArgumentTypeError(msg) from None

"""Arguments that transformers' `pipeline` takes: those that mean something here, and why the others are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError, shown
from ..notes import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["as_ours", "named_input", "refuse_foreign", "renewed"]

#: What `device` may be called there.
DEVICES = {"-1": "cpu", "cpu": "cpu", "0": "cuda", "cuda": "cuda", "cuda:0": "cuda"}
#: Argument of `transformers.pipeline` -> what to do here.
INSTEAD = {
    "tokenizer": "the tokenizer is read from the model's directory; leave it out",
    "config": "config.json is read from the model's directory; leave it out",
    "feature_extractor": "texts need none; leave it out",
    "image_processor": "texts need none; leave it out",
    "processor": "texts need none; leave it out",
    "framework": "there is none; leave it out",
    "use_fast": "tokenizer.json is the only one that is read; leave it out",
    "trust_remote_code": "no code of a checkpoint is run; leave it out",
    "model_kwargs": "give the options of miaotui.load by their names",
    "pipeline_class": "name a task",
    "token": "set HF_TOKEN, or log in with the hub's own command",
    "device_map": "one device computes; give device='cpu' or device='cuda'",
    "dtype": "weights are used as they are stored; quantize= and precision= choose otherwise",
    "torch_dtype": "weights are used as they are stored; quantize= and precision= choose otherwise",
}
#: Parameter of `generate` there -> what to do here.
OF_GENERATE = {
    "generation_config": "give its parameters by their names",
    "streamer": "model.stream gives an answer piece by piece",
    "stopping_criteria": "stop_strings= and eos_token_id= end an answer",
    "assistant_model": "no second model drafts; leave it out",
    "assistant_tokenizer": "no second model drafts; leave it out",
    "return_dict_in_generate": "logprobs=True tells how likely each token was; leave it out",
    "output_scores": "logprobs=True tells how likely each token was",
    "output_logits": "logprobs=True tells how likely each token was",
    "return_type": "give return_full_text= or return_tensors=",
}


def as_ours(options: Mapping[str, object], model: object) -> dict[str, object]:
    """The options in our words. Errors: `InputError` for what only transformers has, with what to do instead.

    What changes nothing is dropped: None, `torch_dtype="auto"`, and a tokenizer that is the model's own.
    """
    ours: dict[str, object] = {}
    for name, value in options.items():
        if name == "device":
            ours[name] = _device(value)
        elif name not in INSTEAD:
            ours[name] = value
        elif not (value is None or value == "auto" or (name == "tokenizer" and _same(value, model))):
            msg = f"{name}={shown(value, 80)}: {INSTEAD[name]}"
            raise InputError(msg)
    return ours


def refuse_foreign(given: Mapping[str, object]) -> None:
    """Errors: `InputError` for a parameter of `generate` that only transformers has, with what to do instead."""
    for name, value in given.items():
        if name in OF_GENERATE and value is not None:
            msg = f"{name}={shown(value, 80)}: {OF_GENERATE[name]}"
            raise InputError(msg)


def named_input(inputs: object, name: str, parameters: dict[str, object]) -> object:
    """What a call reads, which transformers calls `name` there, taken out of `parameters`. Errors: `InputError`."""
    if name not in parameters:
        return inputs
    if inputs is not None:
        msg = f"{name}: given by name and by its place too; give it once"
        raise InputError(msg)
    return parameters.pop(name)


def renewed(
    given: Mapping[str, object], older: str, newer: str, check: Callable[[str, object], object]
) -> dict[str, object]:
    """`given` with a parameter's older name replaced, of which a warning tells.

    Errors: `InputError` for both names, and what `check` says of the older one and its value.
    """
    rest = {name: value for name, value in given.items() if name != older}
    if given.get(older) is None:
        return rest
    if newer in rest:
        msg = f"{older} and {newer} are the same parameter: give {newer} alone"
        raise InputError(msg)
    value = check(older, given[older])
    warn(f"{older}: an older name of {newer}; give that")
    return rest | {newer: value}


def _same(tokenizer: object, model: object) -> bool:
    """Whether both are one directory or hub name, as in `pipeline(task, model=name, tokenizer=name)`."""
    return not isinstance(tokenizer, bool) and str(tokenizer) == str(model)


def _device(value: object) -> str:
    """Of a name, a number as transformers has them, or a `torch.device`."""
    device = None if isinstance(value, bool) else DEVICES.get(str(value))
    if device is None:
        msg = f"device={shown(value, 80)}: expected 'cpu' (or -1) or 'cuda' (or 0: one GPU computes)"
        raise InputError(msg)
    return device

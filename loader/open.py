"""A checkpoint opened and its config resolved: once, for everyone who needs both."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from ..dataclass import dataclass
from ..errors import CheckpointError, ConfigError
from ..once import once
from .checkpoint import CONFIG, MODULES, Checkpoint, open_checkpoint
from .config import QUANT_METHOD, of_text, resolve_config, with_token_ids
from .families import FAMILIES, Resolved, left_out
from .families.decoding import DECODING_KEYS
from .formats import QUANTIZATION, other_quantization
from .generation import OF_DECODERS, generation_defaults, not_applied
from .hub import locate
from .model_tensors import ModelTensors
from .paths import is_there
from .reconcile import reconciled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

    from ..runtime.spec import Config
    from .adapter import Adapter
    from .families import Part

__all__ = ["Opened", "open_model"]

#: Endings of the names of classes with a head.
LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Opened:
    """A checkpoint, and the model that its config.json describes; nothing is cut yet. Closing it unmaps the files.

    `raw` is config.json with the sizes that the tensors have, of the one model that is read; `corrections` says in
    words which it had wrong, what is skipped, and what generation_config.json asks for that is not applied. `config`
    is what `raw` resolves to, with the token ids of generation_config.json; `biases` are the roles of optional weights
    that the model has; `numbers` and `own`: as in `Resolved`. `adapter`: what changes the weights while they are read;
    `checkpoint` then has what it holds in place of the base's. `generation`: parameters that answers follow where a
    call gives no others (`generation.py`).
    """

    checkpoint: Checkpoint
    raw: dict[str, Any]
    config: Config
    biases: frozenset[str]
    corrections: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None
    own: Mapping[str, Part | None] = field(default_factory=dict)
    adapter: Adapter | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.checkpoint.directory

    @property
    def place(self) -> Path | Checkpoint:
        """What opens it once more."""
        return self.directory if self.checkpoint.on_disk else self.checkpoint

    @once
    def model_tensors(self) -> ModelTensors:
        """Which tensor each weight is made from: compared with the config at first use. Errors: `CheckpointError`."""
        resolved = Resolved(self.config, self.biases, self.numbers, self.own)
        tensors = ModelTensors(self.directory, self.checkpoint.tensors, resolved)
        tensors.array = self.checkpoint.array
        tensors.check()
        return tensors

    def close(self) -> None:
        """Release the files. Harmless when done twice."""
        self.checkpoint.close()
        if self.adapter is not None:
            self.adapter.close()

    def __enter__(self) -> Self:
        """`with open_model(path) as opened:` closes at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _check_quantization(checkpoint: Checkpoint) -> None:
    """Refuse what others quantised, by name."""
    if what := other_quantization(checkpoint.config, checkpoint.tensors, QUANT_METHOD):
        msg = f"{checkpoint.directory}: {what}"
        raise ConfigError(msg)


def _with_coded(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json without what it says of matrices that others quantised, which are then in the checkpoint's table."""
    if QUANTIZATION not in checkpoint.config:
        return checkpoint.config
    from .foreign.tensors import with_coded  # noqa: PLC0415 - few are quantised

    return with_coded(checkpoint)


def _without_head(config: Config, checkpoint: Checkpoint) -> Config:
    """A decoder that gives vectors alone, where its class or a modules.json says so: the file has no lm_head."""
    family, names = FAMILIES[config.family], checkpoint.config.get("architectures")
    part = family.model.get("head")
    if config.decoder is None or config.seq2seq or config.tied or part is None or part.name in checkpoint.tensors:
        return config
    plain = isinstance(names, list) and bool(names) and not any(str(n).endswith(LANGUAGE_MODELS) for n in names)
    said = plain or is_there(checkpoint.directory / MODULES, CheckpointError)
    return replace(config, lm_head=False) if said else config


def open_model(
    path: str | Path | Checkpoint, *, revision: str | None = None, adapter: str | Path | None = None
) -> Opened:
    """Open a directory or a hub name: config.json, generation_config.json, the index and all headers; no data is read.

    Or take a `Checkpoint` that is open already. Sizes that config.json has wrong are put right where the tensors agree
    (`reconcile`). `adapter`: the directory or hub name of a PEFT adapter, with which the weights are what merging it
    makes of them. Errors: `HubError`, `CheckpointError` for missing or damaged files and tensors that contradict each
    other, `ConfigError` for a config that is none, or asks for maths that we do not do.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open_checkpoint(locate(path, revision=revision))
    try:
        where = str(checkpoint.directory / CONFIG)
        _check_quantization(checkpoint)
        raw = of_text(_with_coded(checkpoint), where)
        resolved = resolve_config(raw, where)
        raw, resolved, corrections = reconciled(raw, resolved, checkpoint.tensors, checkpoint.directory)
        config = with_token_ids(_without_head(resolved.config, checkpoint), where, checkpoint.generation)
    except BaseException:
        checkpoint.close()
        raise
    applied = DECODING_KEYS if config.decoding is not None else ()
    corrections += left_out(FAMILIES[config.family].around, checkpoint.tensors, config.family)
    cannot = OF_DECODERS if config.seq2seq else ()
    corrections += not_applied(checkpoint.generation, checkpoint.config, applied, writes=config.writes, cannot=cannot)
    said = generation_defaults(checkpoint.generation, checkpoint.config, (*applied, *cannot))
    sizes = resolved.numbers, resolved.own
    opened = Opened(checkpoint, raw, config, resolved.biases, corrections, *sizes, generation=said)
    if adapter is None:
        return opened
    try:
        from .adapted import with_adapter  # noqa: PLC0415 - few need it

        return with_adapter(opened, adapter)
    except BaseException:
        opened.close()
        raise

"""miaotui: Hugging Face checkpoints in, text out, on the CPU. This is the façade.

`import miaotui` costs milliseconds: every name below is imported from its module when it is first used (PEP 562), so
neither NumPy, Numba nor `tokenizers` is loaded before something needs them.

    import miaotui as mt

    with mt.load("path/or/hub-name") as model:
        print(model.generate("Once upon a time", max_new_tokens=64).text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import batch, errors
    from .errors import MiaotuiError
    from .filter_files import Filters
    from .load_options import LoadKwargs
    from .loader.prune.plan import PrunePlan
    from .loader.text.choices import Choices
    from .model import Model, load
    from .perplexity import Perplexity
    from .profiles import Profile
    from .runtime.filters.filters import Filtered
    from .runtime.filters.rules import FilterRule
    from .runtime.generate import GenerateParams, Generation, Timings, Token
    from .runtime.logprobs import Logprob
    from .runtime.parameters import ChatKwargs, GenerateKwargs
    from .runtime.sampling import SamplingParams
    from .runtime.scoring import Score
    from .runtime.sequence import Sequence
    from .runtime.spec import Config
    from .scores import Choice
    from .tools.cross_encoder import CrossEncoder
    from .tools.embedder import SentenceEncoder
    from .tools.pipelines.make import pipeline

    __version__: str

__all__ = [
    "ChatKwargs",
    "Choice",
    "Choices",
    "Config",
    "CrossEncoder",
    "FilterRule",
    "Filtered",
    "Filters",
    "GenerateKwargs",
    "GenerateParams",
    "Generation",
    "LoadKwargs",
    "Logprob",
    "MiaotuiError",
    "Model",
    "Perplexity",
    "Profile",
    "PrunePlan",
    "SamplingParams",
    "Score",
    "SentenceEncoder",
    "Sequence",
    "Timings",
    "Token",
    "__version__",
    "batch",
    "errors",
    "load",
    "pipeline",
]

#: Name -> the module that defines it; "" where the name is the module.
_HOMES = {
    "ChatKwargs": ".runtime.parameters",
    "Choice": ".scores",
    "Choices": ".loader.text.choices",
    "Config": ".runtime.spec",
    "CrossEncoder": ".tools.cross_encoder",
    "FilterRule": ".runtime.filters.rules",
    "Filtered": ".runtime.filters.filters",
    "Filters": ".filter_files",
    "GenerateKwargs": ".runtime.parameters",
    "GenerateParams": ".runtime.generate",
    "Generation": ".runtime.generate",
    "LoadKwargs": ".load_options",
    "Logprob": ".runtime.logprobs",
    "MiaotuiError": ".errors",
    "Model": ".model",
    "Perplexity": ".perplexity",
    "Profile": ".profiles",
    "PrunePlan": ".loader.prune.plan",
    "SamplingParams": ".runtime.sampling",
    "Score": ".runtime.scoring",
    "SentenceEncoder": ".tools.embedder",
    "Sequence": ".runtime.sequence",
    "Timings": ".runtime.generate",
    "Token": ".runtime.generate",
    "batch": "",
    "errors": "",
    "load": ".model",
    "pipeline": ".tools.pipelines.make",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, once: the value is then an ordinary attribute of the module."""
    value: object
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - 10 ms that only those who ask should pay

        value = version("miaotui")
    elif name in _HOMES:
        home = _HOMES[name]
        if home in {"", ".errors"}:
            value = getattr(import_module(home, __name__), name) if home else import_module(f".{name}", __name__)
        else:
            from .interpreters import check_interpreter, check_room, not_imported, uncollected  # noqa: PLC0415 - as above

            check_interpreter()
            check_room()
            try:
                with uncollected():
                    value = getattr(import_module(home, __name__), name)
            except (ImportError, AttributeError, MemoryError) as e:
                raise not_imported(e) from e
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)

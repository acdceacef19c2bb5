"""Optional libraries that an evaluation needs, checked before a model is asked: not after hours of it."""

from __future__ import annotations

from importlib.util import find_spec

from .measured import lacking
from .metrics_texts import made_bleu

__all__ = ["check_extras"]

_CLASSES = ("sklearn", "scikit-learn", "a classification report")
_TEXTS = (("sacrebleu", "sacrebleu", "BLEU and chrF"), ("rouge_score_rs", "rouge-score-rs", "ROUGE"))
#: Task -> modules, the libraries that have them, and what they are for.
NEEDED = {
    "text-classification": (_CLASSES,),
    "zero-shot-classification": (_CLASSES,),
    **dict.fromkeys(("text2text-generation", "summarization", "translation", "text-generation"), _TEXTS),
}


def check_extras(task: str, *, plot: bool = False, tensorboard: bool = False, tokenize: str | None = None) -> None:
    """Errors: `BackendError`, which names the extra, where a library is not installed; `made_bleu`'s for `tokenize`."""
    for module, library, what in NEEDED.get(task, ()):
        if find_spec(module) is None:
            raise lacking(library=library, what=what)
    if tokenize is not None:
        made_bleu(tokenize)
    if plot and find_spec("matplotlib") is None:
        raise lacking(library="matplotlib", what="--plot", extra="plot")
    if tensorboard and find_spec("tensorboardX") is None:
        raise lacking(library="tensorboardX", what="--log tensorboard", extra="tensorboard")

"""Names of tasks and of formats, for the command line: nothing is imported here."""

from __future__ import annotations

__all__ = ["ALIASES", "FORMATS", "ONLY", "TASKS", "WRITING"]

TASKS = (
    "text-classification", "zero-shot-classification", "token-classification", "question-answering",
    "text2text-generation", "summarization", "translation", "text-generation", "sentence-similarity",
    "multiple-choice", "perplexity",
)  # fmt: skip
#: Tasks whose answers are written, an id after the other.
WRITING = ("text2text-generation", "summarization", "translation", "text-generation")
#: Other names of tasks, as the pipelines have them.
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
#: What a format is.
FORMATS = {
    "jsonl": "a JSON object a line, or one list of objects",
    "csv": "a header and rows",
    "tsv": "the same with tabs",
    "parquet": "by duckdb, the extra parquet",
    "conll": "a word and its tag a line",
    "squad": "SQuAD 1.1 or 2.0",
    "txt": "plain text",
    "tnews": "of CLUE, whose class is label_desc",
    "afqmc": "of CLUE",
    "ocnli": "of CLUE, less what has no class",
    "cluener": "of CLUE, by character",
    "cmrc2018": "of CLUE, or its own JSON",
}
#: Formats that hold data of one task.
ONLY = {
    "conll": "token-classification", "cluener": "token-classification", "squad": "question-answering",
    "cmrc2018": "question-answering", "tnews": "text-classification", "afqmc": "text-classification",
    "ocnli": "text-classification", "txt": "perplexity",
}  # fmt: skip

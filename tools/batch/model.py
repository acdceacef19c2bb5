"""A task as a callable class, `miaotui.batch.Model`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, MiaotuiError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from ..pipelines.base import Pipeline
    from .inputs import Inputs

__all__ = ["Model"]

#: What a call adds to a batch.
OUTPUT = "output"


class _Worker:
    """What a process makes at its first batch; no pickle holds it, nor that of a copy of a `Model`'s attributes."""

    def __init__(self) -> None:
        self.loading = threading.Lock()
        self.pipe: Pipeline | None = None
        self.inputs: Inputs | None = None
        self.seeded: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[_Worker], tuple[()]]:
        """A new one."""
        return _Worker, ()


class Model:
    """A task as a callable class. Results, parameters and errors are those of `mt.pipeline`, each record's its own."""

    def __init__(  # noqa: PLR0913 - options, by keyword
        self,
        task: str | Path,
        model: str | Path | None = None,
        *,
        columns: str | Mapping[str, str] | None = None,
        output: str = OUTPUT,
        errors: str | None = None,
        workers: int | None = None,
        **options: Any,  # noqa: ANN401 - those of load, and the task's
    ) -> None:
        """`task`: its name, or the path of a model whose usual task it is; `model`: as `mt.pipeline` has it.

        `columns`: the name of the text's column, or names by field; `output`: that of the results. `errors`: the column
        that tells of each record what is wrong with it, None of most; without it the first bad record raises.
        `workers`: how many share this machine; each takes its part of the cores. `options`: of `load`, and the task's
        parameters; without a `seed`, tasks that draw take 0, so that a batch that is done again has the same texts.

        Nothing is loaded here. Errors: `InputError` for arguments that no model could take.
        """
        if model is not None and not isinstance(model, str | Path):
            msg = f"model={shown(model)}: expected a directory or a hub name; every worker loads its own"
            raise InputError(msg)
        if type(workers) is bool or not (workers is None or (isinstance(workers, int) and workers > 0)):
            msg = f"workers={shown(workers)}: expected a number of processes, 1 or more"
            raise InputError(msg)
        if workers is not None and options.get("threads") is not None:
            msg = f"threads={shown(options['threads'])}: workers={workers} divides the cores already; give one of them"
            raise InputError(msg)
        for name, value in {"output": output, **({} if errors is None else {"errors": errors})}.items():
            if not isinstance(value, str) or not value:
                msg = f"{name}={shown(value)}: expected the name of a column"
                raise InputError(msg)
        if errors == output:
            msg = f"errors={shown(errors)}: it is the name of the results' column too (output); give another"
            raise InputError(msg)
        self._task, self._model = _told(task, model)
        self._columns = _columns(columns)
        self._output, self._errors, self._workers, self._options = output, errors, workers, options
        self._worker = _Worker()
        self._check()

    def _check(self) -> None:
        """Errors: `InputError` for names that neither `load` nor the task knows, where the task is known."""
        if self._task is None:
            return
        from ...load_options import LOAD_DEFAULTS  # noqa: PLC0415 - imports NumPy
        from ...runtime.parameters import check_names  # noqa: PLC0415 - as above
        from ..pipelines.registry import task_of  # noqa: PLC0415 - as above
        from .inputs import Inputs  # noqa: PLC0415 - as above

        task, _ = task_of(self._task)
        check_names(self._options, [*LOAD_DEFAULTS, *task.cls.parameters], f"option of load or {task.name}")
        Inputs(task.name, self._columns, option="columns:")

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401 - the same kind out
        """A result for each record, in order, in the form in which they came.

        A dict of columns (lists or arrays of equal length) gives these columns and the results' one; one record, a dict
        as well, the record with its result. A list of records gives such a list. A text gives its result alone, and so
        does each of a list of texts, or of a column that has `to_pylist` (Daft's, pyarrow's).

        The first call loads the model. Errors: `InputError`, with the record's number; those of `load`.
        """
        pipe, inputs = self._loaded()
        if isinstance(batch, str):
            return self._results(pipe, inputs, [batch], alone=True)[0][0]
        if isinstance(batch, Mapping):
            return self._of_dict(pipe, inputs, dict(batch))
        records = _listed(batch)
        if records is None:
            msg = f"{shown(batch)} found, expected a dict of columns, a list of records or texts, or one of them"
            raise InputError(msg)
        results, wrong = self._results(pipe, inputs, records)
        return [self._with(*told) for told in zip(records, results, wrong, strict=True)]

    def _of_dict(self, pipe: Pipeline, inputs: Inputs, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns, or one record."""
        self._check_free(batch)
        lists = {name: values for name in batch if (values := _listed(batch[name])) is not None}
        fields = inputs.fields(batch)
        if not fields or any(name not in lists for name in fields) or _is_chat(lists[fields[0]]):
            if not fields and lists and len(lists) == len(batch):
                columns = ", ".join(map(shown, batch))
                msg = f"no column of {inputs.task} in the batch; its columns are {columns}; name one with columns="
                raise InputError(msg)
            results, wrong = self._results(pipe, inputs, [batch], alone=True)
            record: dict[str, Any] = self._with(batch, results[0], wrong[0])
            return record
        lengths = {name: len(lists[name]) for name in lists}
        if len(lists) < len(batch) or len(set(lengths.values())) > 1:
            sizes = ", ".join(f"{shown(name)}: {lengths.get(name, 'no list')}" for name in batch)
            msg = f"a batch's columns must be of one length; these are ({sizes})"
            raise InputError(msg)
        records = [dict(zip(fields, row, strict=True)) for row in zip(*(lists[name] for name in fields), strict=True)]
        results, wrong = self._results(pipe, inputs, records)
        return {**batch, self._output: results, **({} if self._errors is None else {self._errors: wrong})}

    def _with(self, record: Any, result: object, wrong: str | None) -> Any:  # noqa: ANN401 - as __call__
        """A record, and what became of it; of a text that alone."""
        if not isinstance(record, Mapping):
            return result
        self._check_free(record)
        return {**record, self._output: result, **({} if self._errors is None else {self._errors: wrong})}

    def _check_free(self, names: Mapping[str, Any]) -> None:
        """Errors: `InputError` for a column that the results would take the place of."""
        for option, name in (("output", self._output), ("errors", self._errors)):
            if name in names:
                msg = f"the batch has a column {shown(name)} already; name the results' one with {option}="
                raise InputError(msg)

    def _results(
        self, pipe: Pipeline, inputs: Inputs, records: Sequence[Any], *, alone: bool = False
    ) -> tuple[list[Any], list[str | None]]:
        """A result for each, and what is wrong with it."""
        from .outcomes import apart  # noqa: PLC0415 - not before the arguments were checked

        wrong: list[str | None] = [None] * len(records)
        good: list[Any] = []
        for i, record in enumerate(records):
            try:
                good.append(inputs.of(record))
            except ValueError as e:
                wrong[i] = self._bad(str(e), i, alone=alone)
        found: Iterator[Any] = apart(lambda values: pipe(iter(values), **self._worker.seeded), good)
        results: list[Any] = []
        for i, told in enumerate(wrong):
            result = None if told is not None else next(found)
            if isinstance(result, MiaotuiError):
                wrong[i], result = self._bad(str(result), i, alone=alone), None
            results.append(result)
        return results, wrong

    def _bad(self, what: str, i: int, *, alone: bool) -> str:
        if self._errors is not None:
            return what
        msg = what if alone else f"record {i} of the batch, counted from 0: {what}; errors='error' tells it in a column"
        raise InputError(msg)

    def _loaded(self) -> tuple[Pipeline, Inputs]:
        """The pipeline, made at the first call."""
        with self._worker.loading:
            if self._worker.pipe is None or self._worker.inputs is None:
                from ...runtime.cores import available_threads  # noqa: PLC0415 - imports NumPy
                from ..pipelines.make import pipeline  # noqa: PLC0415 - imports Numba
                from .inputs import Inputs  # noqa: PLC0415 - as above

                options = dict(self._options)
                if self._workers is not None:
                    options["threads"] = max(1, available_threads() // self._workers)
                pipe = pipeline(self._task, self._model, **options)
                draws = "seed" in pipe.parameters and options.get("seed") is None
                self._worker.seeded = {"seed": 0} if draws else {}
                self._worker.inputs = Inputs(pipe.task, self._columns, option="columns:")
                self._worker.pipe = pipe
            return self._worker.pipe, self._worker.inputs

    def close(self) -> None:
        """Let go of the weights; the next call loads them again."""
        with self._worker.loading:
            if self._worker.pipe is not None:
                self._worker.pipe.close()
            self._worker.pipe = None

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """What it does, and whether it is loaded."""
        state = "not loaded yet" if self._worker.pipe is None else "loaded"
        return f"<miaotui.batch.Model {self._task or 'of'} {self._model or ''}, {state}>".replace(" ,", ",")


def _told(task: object, model: str | Path | None) -> tuple[str | None, str | Path | None]:
    """Task and model of what may be either. Errors: `InputError` for a name that is nearly a task's."""
    if isinstance(task, Path) and model is None:
        return None, task
    from ..pipelines.registry import task_of  # noqa: PLC0415 - imports NumPy

    try:
        task_of(task)
    except InputError as e:
        if not isinstance(task, str) or model is not None or ("did you mean" in str(e) and not Path(task).is_dir()):
            raise
        return None, task
    return str(task), model


def _columns(told: object) -> dict[str, str]:
    if told is None or isinstance(told, str):
        return {} if told is None else {"text": told}
    if not isinstance(told, Mapping) or not all(isinstance(x, str) for pair in told.items() for x in pair):
        msg = f"columns={shown(told)}: expected the text's column, or a dict of columns by field"
        raise InputError(msg)
    return dict(told)


def _listed(values: Any) -> list[Any] | None:  # noqa: ANN401 - a column of any library
    """The values of a column as Python's; None where it is none."""
    if isinstance(values, list | tuple):
        return list(values)
    for name in ("to_pylist", "tolist"):
        if hasattr(values, name) and not isinstance(values, type):
            got = getattr(values, name)()
            return got if isinstance(got, list) else None
    return None


def _is_chat(values: Sequence[Any]) -> bool:
    """Whether a list is one conversation, where a column has a list of them."""
    return bool(values) and all(isinstance(value, Mapping) and "role" in value for value in values)

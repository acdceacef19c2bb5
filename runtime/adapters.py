"""Which adapters a model has now: those that it was loaded with, and those that came to it since.

An adapter's number (`lora.py`) is held by every text that is read with it: as long as one of them is there, or pages of
one that others may begin like, its place is taken, though its name may be gone. So no page of an adapter that went is
ever shared with a text of the next one in its place.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import InputError, shown
from .lora import LoraTable, parts_of, product_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from .program import Program
    from .spec import Adapter, Weight, Weights

    #: Of one product: each array by its name in `Adapter`, and the factor.
    Numbers = tuple[Mapping[str, NDArray[np.float32]], float]

__all__ = ["Adapters"]


class _Held:
    """Of what holds a number."""


class _Number(int):
    """An adapter's number, and its name; whoever reads with it keeps this very object."""

    name: str
    held: _Held


class Adapters:
    """The names of a session's adapters, and places for more."""

    def __init__(self, program: Program, weights: Weights) -> None:
        """Of a bound program. Names that are empty are places."""
        self._tables = {
            product_of(part): table
            for table in {
                id(v): v for i in program.code for v in i.values.values() if isinstance(v, LoraTable)
            }.values()
            for part in table.adapters
            if part is not None
        }
        self._weights = weights
        self._numbers = {name: _number(i, name) for i, name in enumerate(program.adapters, 1) if name}
        self._held = {int(number): weakref.ref(number.held) for number in self._numbers.values()}
        self._places = tuple(i for i, name in enumerate(program.adapters, 1) if not name)
        self._added: dict[int, list[Adapter]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Those that a text may choose."""
        return tuple(self._numbers)

    @property
    def n_places(self) -> int:
        """How many may come, all together."""
        return len(self._places)

    def number(self, adapter: object, call: str) -> int:
        """An adapter's number, 0 for None; keep this very object as long as it is used.

        Errors: `InputError`, which begins with the `call`, and says which there are.
        """
        if adapter is None:
            return 0
        number = self._numbers.get(adapter) if isinstance(adapter, str) else None
        if number is not None:
            return number
        names = ", ".join(map(shown, self._numbers))
        there = f"it has {names}" if names else "it was loaded without any: load(adapters={...})"
        msg = f"{call}: adapter={shown(adapter)}: the model has no such adapter; {there}"
        raise InputError(msg)

    def name_of(self, number: int) -> str | None:
        """Its name, though that may be gone by now; None: of 0."""
        if isinstance(number, _Number):
            return number.name
        return next((name for name, own in self._numbers.items() if own == number), None)

    def is_there(self, number: int) -> bool:
        """Whether its name still means this adapter."""
        name = self.name_of(number)
        return name is not None and self._numbers.get(name) is number

    def parts(self, name: str) -> list[Adapter]:
        """What the embedding and each product has of an adapter that is there."""
        number = self._numbers[name]
        return self._added[number] if number in self._added else parts_of(self._weights, number)

    def remove(self, name: object, call: str) -> None:
        """Forget a name. Errors: `InputError`."""
        number = self.number(name, call)
        if not number:
            msg = f"{call}: expected the name of an adapter, found None"
            raise InputError(msg)
        del self._numbers[str(name)]

    def add(self, name: str, numbers: Mapping[str, Numbers], forget: Callable[[Iterable[int]], None]) -> None:
        """Write an adapter, by its products' names, into a place that nothing holds.

        `forget` is called with numbers whose names are gone: pages that others might begin like need not stay. The
        caller holds the session. Errors: `InputError`: no place is free.
        """
        gone = set(self._places) - {int(number) for number in self._numbers.values()}
        forget(gone)
        place = next((i for i in self._places if i in gone and self._is_free(i)), None)
        if place is None and gone:
            gc.collect()  # of sequences that hold each other
            place = next((i for i in self._places if i in gone and self._is_free(i)), None)
        if place is None:
            why = (
                "texts that began with adapters that were removed still hold the others; close them, or let them end"
                if gone
                else f"remove_adapter one of {', '.join(map(shown, self.names))}, or load with a larger adapter_slots"
            )
            msg = f"add_adapter: {shown(name)}: the model has {self.n_places} places for adapters, all taken; {why}"
            raise InputError(msg)
        made: dict[str, Adapter] = {}
        for product, table in self._tables.items():
            slot = table.adapters[place - 1] if len(table.adapters) >= place else None
            if slot is None or not slot.free:
                continue
            given = numbers.get(product)
            if given is not None:
                made[product] = _filled(slot, *given)
            table.put(place, made.get(product))
        order = [product_of(part) for part in parts_of(self._weights, place)]
        self._added[place] = [made[product] for product in order if product in made]
        number = _number(place, name)
        self._held[place], self._numbers[name] = weakref.ref(number.held), number

    def _is_free(self, place: int) -> bool:
        held = self._held.get(place)
        return held is None or held() is None


def _number(i: int, name: str) -> _Number:
    number = _Number(i)
    number.name, number.held = name, _Held()
    return number


def _filled(slot: Adapter, arrays: Mapping[str, NDArray[np.float32]], scale: float) -> Adapter:
    """An adapter whose numbers lie at the beginning of each array of a place."""

    def written(weight: Weight | None, what: str) -> Weight | None:
        values = arrays.get(what)
        if values is None:
            return None
        assert weight is not None and weight.array is not None  # noqa: S101, PT018 - as the loader compared them
        there = weight.array.reshape(-1)[: values.size].reshape(values.shape)
        there[...] = values
        return replace(weight, shape=values.shape, array=there)

    down, up, ratio, bias = (written(getattr(slot, what), what) for what in ("down", "up", "ratio", "bias"))
    assert down is not None  # noqa: S101 - of rank 0 where there is a bias alone
    return replace(slot, down=down, up=up, ratio=ratio, bias=bias, scale=scale, free=False)

"""A Python function as a tool's JSON schema: from its hints and its docstring, as transformers makes it.

The docstring is Google's: a description, then `Args:` with a line for each argument, which may end in
`(choices: ["tea", "coffee"])`, then perhaps `Returns:`. Source: transformers 5.24, `get_json_schema`.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from ...errors import InputError, is_iterable, shown
from ...handlers import raised_in_handler
from ..files import printable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["as_tool", "as_tools"]

_DESCRIPTION = re.compile(r"^(.*?)[\n\s]*(Args:|Returns:|Raises:|\Z)", re.DOTALL)
_ARGS = re.compile(r"\n\s*Args:\n(.*?)[\n\s]*(Returns:|Raises:|\Z)", re.DOTALL)
_RETURNS = re.compile(r"\n\s*Returns:\n\s*(.*?)[\n\s]*(Raises:|\Z)", re.DOTALL)
#: "name: ..." or "name (type): ...", with its deeper lines.
_ARG = re.compile(
    r"(?:^|\n)([ \t]*)(\w+)(?:[ \t]*\([^()\n]*\))?:\s*(.*?)\s*"
    r"(?=\n(?!\1[ \t])[ \t]*\w+(?:[ \t]*\([^()\n]*\))?:|\Z)",
    re.DOTALL,
)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)
_SCALARS: dict[object, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_PLAIN: dict[object, str] = {**_SCALARS, list: "array", tuple: "array", dict: "object"}
_PAIR = 2  # of dict[K, V]


def as_tools(tools: object) -> list[dict[str, Any]]:
    """The schemas of several tools. Errors: `InputError`."""
    if isinstance(tools, str | bytes | Mapping) or not is_iterable(tools):
        msg = f"tools: {shown(tools)} found, expected a list of JSON schemas or functions"
        raise InputError(msg)
    return [as_tool(tool) for tool in tools]


def as_tool(tool: object) -> dict[str, Any]:
    """A schema as it is, or a function's. Errors: `InputError`, for what is neither, or says too little of itself."""
    if isinstance(tool, dict):
        return tool
    if not inspect.isfunction(tool) and not inspect.ismethod(tool):
        msg = f"tools: {type(tool).__name__} found, expected JSON schemas, or functions with type hints and a docstring"
        raise InputError(msg)
    name = getattr(tool, "__name__", "operation")
    doc = (inspect.getdoc(tool) or "").strip()
    if not doc:
        _refuse(name, "has no docstring, which would describe it and its arguments")
    section = _ARGS.search(doc)
    lines = "\n".join(line for line in (section[1] if section else "").split("\n") if line.strip())
    said = {match[1]: re.sub(r"\s*\n+\s*", " ", match[2].strip()) for match in _ARG.findall(lines)}
    schema = _parameters(tool, name)
    result = schema["properties"].pop("return", None)
    if result is not None and (returned := _RETURNS.search(doc)):
        result["description"] = returned[1].strip()
    for argument, of in schema["properties"].items():
        if argument not in said:
            _refuse(name, f"says nothing of the argument {argument!r} in its docstring (under Args:)")
        of.update(_described(name, argument, said[argument]))
    description = _DESCRIPTION.search(doc)
    function = {"name": name, "description": description[1].strip() if description else None, "parameters": schema}
    return {"type": "function", "function": function | ({} if result is None else {"return": result})}


def _described(name: str, argument: str, text: str) -> dict[str, Any]:
    choices = _CHOICES.search(text)
    if choices is None:
        return {"description": text}
    try:
        listed = json.loads(choices[1])
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        _refuse(name, f"has choices of the argument {argument!r} that are no JSON list: {shown(choices[1])}")
    values = [one.strip() if isinstance(one, str) else one for one in listed]
    return {"enum": values, "description": text[: choices.start()].strip()}


def _parameters(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        hints, own = get_type_hints(function), inspect.signature(function).parameters
    except Exception as e:  # noqa: BLE001 - a hint that is a text is Python, which is run
        raised_in_handler(e)
        _refuse(name, f"has type hints that cannot be read ({printable(e)})")
    first = next(iter(own), None)
    unbound = first if first in {"self", "cls"} and own[first].annotation is inspect.Parameter.empty else None
    for argument in own:
        if argument not in hints and argument != unbound:
            _refuse(name, f"has no type hint for the argument {argument!r}")
    properties = {}
    for argument, hint in hints.items():
        try:
            properties[argument] = _schema(hint)
        except InputError as e:
            if argument != "return":  # the model never writes it
                _refuse(name, f"has an argument {argument!r} {e}")
    required = [a for a, p in own.items() if a != unbound and p.default is inspect.Parameter.empty]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def _schema(hint: Any) -> dict[str, Any]:  # noqa: ANN401 - a type hint may be anything
    """The JSON schema of a type hint. Errors: `InputError`, whose text goes on from the argument's name."""
    origin, args = get_origin(hint), get_args(hint)
    origin, hint = (None, origin) if origin in _PLAIN and not args else (origin, hint)  # List, of nothing in particular
    if hint is Any:
        return {}
    if origin is None and isinstance(hint, type) and issubclass(hint, Enum):
        return _enum([member.value for member in hint], hint)
    if origin is None and isinstance(hint, type) and hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    makers: dict[object, Callable[[], dict[str, Any]]] = {
        Union: lambda: _union(args),
        types.UnionType: lambda: _union(args),
        Literal: lambda: _enum(args, hint),
        list: lambda: {"type": "array", "items": _schema(args[0])},
        dict: lambda: {"type": "object"} | ({"additionalProperties": _schema(args[1])} if len(args) == _PAIR else {}),
    }
    if len(args) > 1 and ... not in args:
        makers[tuple] = lambda: {"type": "array", "prefixItems": [_schema(each) for each in args]}
    if origin not in makers:
        msg = f"of type {shown(hint)}, which has no JSON schema here; write the tool's schema by hand"
        raise InputError(msg)
    return makers[origin]()


def _union(args: Iterable[Any]) -> dict[str, Any]:
    every = list(args)
    parts = [_schema(each) for each in every if each is not type(None)]
    if len(parts) == 1:
        made = parts[0]
    elif all(part.keys() == {"type"} and isinstance(part["type"], str) for part in parts):
        names = sorted({part["type"] for part in parts})
        made = {"type": names[0] if len(names) == 1 else names}
    else:
        made = {"anyOf": parts}
    return made | ({"nullable": True} if type(None) in every else {})


def _enum(values: Iterable[object], hint: object) -> dict[str, Any]:
    every = list(values)
    if not every or any(type(value) not in _SCALARS for value in every):
        msg = f"of type {shown(hint)}, whose values are not all texts, numbers, booleans or None"
        raise InputError(msg)
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in every))
    return {"type": names[0] if len(names) == 1 else names, "enum": every}


def _refuse(name: str, why: str) -> NoReturn:
    msg = f"tools: the function {name} {why}"
    raise InputError(msg)

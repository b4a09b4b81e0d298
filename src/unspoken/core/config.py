"""Typed configuration: frozen dataclasses checked by pydantic, literal tables, and dotted overrides.

A config class (`config_class`) is a frozen, keyword-only dataclass next to the class it configures. Configs of classes
that are chosen by name (methods, tasks) have `name: Literal["..."]` as their first field, so that a plain dict identifies
the class.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from unspoken.core.checks import readable, shown
from unspoken.errors import ConfigError, UnspokenError, did_you_mean

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
"""`__pydantic_config__` of every config class: an unknown field is an error."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def config_class(cls: type[T]) -> type[T]:
    """Decorator of config classes: a frozen dataclass with keywords only, which `build` checks strictly."""
    setattr(cls, "__pydantic_config__", STRICT)  # noqa: B010
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


NameTable = Mapping[str, str]
"""An extension point: name -> "module:Attribute", imported only when asked for."""


PLUGINS = "unspoken.plugins"
"""Entry point group in which installed packages register extensions: "method.hint" = "package.module:Hint"."""


def plugins(kind: str) -> dict[str, str]:
    """Extensions that installed packages register for an extension point: name -> "module:Attribute".

    Args:
        kind: method, task, recipe, extractor or stop rule; entry points write "stop_rule".
    """
    begin = kind.replace(" ", "_") + "."
    found = importlib.metadata.entry_points(group=PLUGINS)
    return {point.name.removeprefix(begin): point.value for point in found if point.name.startswith(begin)}


def lookup(table: NameTable, name: str, kind: str) -> Any:
    """Import the object of a name from `table` or an installed package, or given as "module:Attribute".

    Raises:
        ConfigError: no such name (the message suggests the nearest ones), or the object cannot be imported.
    """
    return _imported(place(table, name, kind), f"{kind} {name!r}")


def place(table: NameTable, name: str, kind: str) -> str:
    """Where the object of a name is, "module:Attribute"; nothing is imported.

    Raises:
        ConfigError: no such name (the message suggests the nearest ones).
    """
    if name in table:
        return table[name]
    if _PLACE.fullmatch(name):
        return name
    others = plugins(kind)
    if name not in others:
        raise ConfigError(f"unknown {kind} {name!r}; {did_you_mean(str(name), (*table, *others))}")
    return others[name]


_PLACE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""module:Attribute."""


def _imported(where: str, what: str) -> Any:
    """The attribute of a module.

    Raises:
        ConfigError: there is no such module or attribute, or importing the module fails.
    """
    module, _, attribute = where.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        needs = "is" if module == error.name or module.startswith(f"{error.name}.") else f"needs {error.name!r}, which is"
        raise ConfigError(
            f"{what} cannot be loaded: module {module!r} {needs} not installed; install the package, or put the folder "
            "that it lies in on PYTHONPATH"
        ) from None
    except UnspokenError:
        raise
    except Exception as error:  # a plugin's module may raise anything
        raise ConfigError(f"{what} cannot be loaded: module {module!r} fails: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        public = [name for name in vars(found) if not name.startswith("_")]
        raise ConfigError(f"{what}: module {module!r} has no {attribute!r}; {did_you_mean(attribute, public)}")
    return getattr(found, attribute)


_ALTERNATIVE = re.compile(r"constrained-\w+|(?:list|tuple|dict|literal|function-[\w-]+)\[.*\]|str|int|float|bool")
"""What pydantic adds to a field's place where a value may be of several kinds: the kind that it has tried."""


def _describe(error: ErrorDetails, cls_name: str, names: Sequence[str]) -> str:
    """One pydantic error in one line: field, expected, got."""
    first, *rest = [str(part) for part in error["loc"]] or [""]
    where = ".".join([first, *(part for part in rest if not _ALTERNATIVE.fullmatch(part))])
    if error["type"] == "extra_forbidden" or error["type"] == "unexpected_keyword_argument":
        return f"unknown field {where!r} of {cls_name}; {did_you_mean(where.split('.')[-1], names)}"
    if error["type"] in ("missing", "missing_argument"):
        return f"field {where!r} of {cls_name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    try:
        got = json.dumps(error["input"], default=repr)
    except (TypeError, ValueError, RecursionError):  # no JSON: keys that are no text, a number of thousands of digits
        got = shown(error["input"])
    return f"field {where!r} of {cls_name}: {message[:1].lower()}{message[1:]}, got {got:.80}"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a config's fields. Kept: a server builds a config per request."""
    return get_type_hints(cls)


def _refuse_bools(cls: type, data: Mapping[str, object], where: str) -> None:
    """Refuse booleans for numbers, also in lists; pydantic would take `true` as 1."""
    for name, hint in _hints(cls).items():
        value = data.get(name)
        inside = [kind for part in (hint, *get_args(hint)) if get_origin(part) in (list, tuple) for kind in get_args(part)]
        every = [(value, get_args(hint) or (hint,))]
        every += [(one, (*inside, *get_args(inside[0]))) for one in value] if inside and isinstance(value, list) else []
        for one, kinds in every:
            if isinstance(one, bool) and not {bool, Any} & set(kinds):
                got = json.dumps(one)
                raise ConfigError(f"{where}field {name!r} of {cls.__name__} must not be true or false, got {got}")
            for kind in kinds:
                if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(one, Mapping):
                    _refuse_bools(kind, one, where)


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """What checks data against a class; to make one takes longer than to use it."""
    return TypeAdapter(cls)


def build(cls: type[T], data: object, where: str = "") -> T:
    """Check `data` (a dict, or an instance already) against a config class.

    Args:
        cls: a frozen dataclass.
        data: a mapping of its fields, nested as the class is.
        where: a prefix for messages, such as the file the data came from.

    Raises:
        ConfigError: unknown or missing fields, or values of the wrong type; lists all of them in one line.
    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}{cls.__name__} needs a mapping of fields, got {type(data).__name__} ({data!r:.60})")
    _refuse_bools(cls, data, where)
    try:
        return _adapter(cls).validate_python(dict(data))
    except ConfigError as error:  # from a class's own checks
        raise ConfigError(where + str(error)) from None
    except ValidationError as error:
        names = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        lines = [_describe(e, cls.__name__, names) for e in error.errors(include_url=False)]
        raise ConfigError(where + "; ".join(lines)) from None


def named(table: NameTable, kind: str, data: object) -> Any:
    """Build the config of a class chosen by name: `{"name": "coconut", ...}` -> `CoconutConfig(...)`.

    Each entry of the table, or a "module:Class", names a class with the attribute `Config`.

    Raises:
        ConfigError: the name is missing or unknown, the class has no `Config`, or a field is wrong.
    """
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return data
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError(f"a {kind} is a mapping with a 'name', got {data!r:.80}; {did_you_mean('', table)}")
    config = getattr(lookup(table, data["name"], kind), "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ConfigError(f"{data['name']!r} is no {kind}: it has no `Config`, the frozen dataclass of its settings")
    return build(config, data)


def method_layers(data: object) -> Iterator[Any]:
    """A method's settings, as a config or as plain values, then those of the method it wraps (`inner`), and so on."""
    while data is not None:
        yield data
        data = data.get("inner") if isinstance(data, Mapping) else getattr(data, "inner", None)


def dump(config: object) -> Any:
    """A config as plain JSON values, nested dataclasses and tuples included. `build(type(c), dump(c)) == c`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: dump(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(k): dump(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [dump(v) for v in config]
    return config


def override(data: Mapping[str, object], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=value` overrides to a dumped config. Values are JSON where they parse as JSON, else strings.

    Raises:
        ConfigError: an assignment without "=", or a path that is not in the config (with a did-you-mean).
    """
    result = json.loads(json.dumps(data))
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign:
            raise ConfigError(f"override {assignment!r} needs the form field.subfield=value")
        *parents, last = path.strip().split(".")
        node = result
        for depth, part in enumerate([*parents, last]):
            if not isinstance(node, dict) or part not in node:
                if node is None and depth:
                    whole = ".".join(parents[:depth])
                    example = f"{whole}='{{\"{part}\": ...}}'"
                    raise ConfigError(f"override {assignment!r}: {whole} is not set; give it as a whole, e.g. {example}")
                inside = ".".join(parents[:depth]) or "the run config"
                options = node if isinstance(node, dict) else ()
                raise ConfigError(f"override {assignment!r}: no field {part!r} in {inside}; {did_you_mean(part, options)}")
            if depth < len(parents):
                node = node[part]
        node[last] = _value(assignment, text)
    return result


def _value(assignment: str, text: str) -> Any:
    """The value of an override: parsed as JSON if possible, else the text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return readable(text, "the value of an override")
    except (ValueError, RecursionError) as error:  # an int of more than 4,300 digits; brackets in brackets in ...
        raise ConfigError(f"override {assignment[:60]!r}...: {len(text)} letters that cannot be a value ({error})") from None
    if isinstance(value, (list, dict)) and _depth(value) > DEEPEST:
        raise ConfigError(f"override {assignment[:60]!r}...: brackets more than {DEEPEST} deep cannot be a value")
    return value


DEEPEST = 50
"""Limit on the nesting of an override's value; configs have fewer than ten levels."""


def _depth(value: object, levels: int = 0) -> int:
    """Levels of lists and objects, counted to just above `DEEPEST`."""
    if not isinstance(value, (list, dict)) or levels > DEEPEST:
        return levels
    return max((_depth(v, levels + 1) for v in (value.values() if isinstance(value, dict) else value)), default=levels + 1)


def check_whole(**values: object) -> None:
    """Refuse arguments that are not whole numbers; None is allowed.

    Raises:
        ConfigError: names the first such argument.
    """
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise ConfigError(f"{name} must be a whole number, got {value!r:.60} ({type(value).__name__})")

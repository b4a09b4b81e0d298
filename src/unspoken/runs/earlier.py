"""Settings that have moved since version 0.1.0. Its files still load; overrides of old names get an error with the new
name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unspoken.errors import ConfigError

MOVED = {
    "coconut": {"parallel": "thinking.parallel"},
    "codi": {"parallel": "thinking.parallel"},
    "softcot": {"cache": "fast.states", "prefix_gb": "fast.prefix_gb"},
    "semcot_generator": {"prefix_gb": "fast.prefix_gb"},
}
"""Method -> old field of its config -> new place in the run's config."""


def updated(config: object) -> Any:
    """Convert a dumped run config of any version to this version. Anything else is returned unchanged, for `build` to
    refuse."""
    if not isinstance(config, Mapping) or not isinstance(config.get("method"), Mapping):
        return config
    method, found = updated_method(config["method"])
    new = {**config, "method": method}
    for place, value in found.items():
        part, field = place.split(".")
        if isinstance(new.get(part, {}), Mapping):
            new[part] = {field: value, **new.get(part, {})}
    return new


def updated_method(data: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dumped method config without moved fields, and the values of those by their new place."""
    name, found, kept = data.get("name"), {}, {}
    moved = MOVED.get(name, {}) if isinstance(name, str) else {}
    for key, value in data.items():
        if key in moved:
            found[moved[key]] = value
        elif isinstance(value, Mapping):
            kept[key], inside = updated_method(value)
            found |= inside
        else:
            kept[key] = value
    return kept, found


def check_moved(config: Mapping[str, object], assignments: Sequence[str]) -> None:
    """Refuse overrides of fields that have moved.

    Args:
        config: the dumped run config that is overridden.
        assignments: as for `core.config.override`.

    Raises:
        ConfigError: says where the field is now.
    """
    for assignment in assignments:
        path, _, value = assignment.partition("=")
        *parents, field = path.strip().split(".")
        node: Any = config
        for part in parents:
            node = node.get(part) if isinstance(node, Mapping) else None
        name = node.get("name") if isinstance(node, Mapping) else None
        if parents[:1] == ["method"] and isinstance(name, str) and (place := MOVED.get(name, {}).get(field)):
            raise ConfigError(
                f"override {assignment!r}: {path.strip()} is no setting of a method any more, but one of the run; give "
                f"{place}={value}"
            )

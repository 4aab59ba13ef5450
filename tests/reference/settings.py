"""Reference of the settings: every field of the settings tree, with what may be written there."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from stream_app.settings import ENVIRONMENT_PREFIX, SECRETS, SETTINGS_FILE, Settings
from tests.reference.source import code, fields, table

HEAD = f"""
Flag over environment over `{SETTINGS_FILE}` over default. A setting has one dotted name everywhere:

| where | how `serving.top_k = 10` is written |
|---|---|
| flag | `--set serving.top_k=10`; the settings that a command needs most have a flag of their own ([commands](commands.md)) |
| environment | `{ENVIRONMENT_PREFIX}SERVING__TOP_K=10` |
| `{SETTINGS_FILE}`, or the file that `--settings` names | `top_k = 10` under `[serving]` |

An unknown setting is an error that names the nearest known one; so is a value that does not fit. Lists are written
with commas in flags and variables.
"""


class Setting(NamedTuple):
    name: str
    default: Any
    accepts: str
    meaning: str


def page() -> Iterator[str]:
    """The settings, a table per group."""
    yield "# Settings"
    yield HEAD
    found = list(every_setting())
    alone = [setting for setting in found if "." not in setting.name]
    yield "## At the top"
    yield ""
    yield from _table(alone)
    for group in dict.fromkeys(s.name.partition(".")[0] for s in found if "." in s.name):
        yield ""
        yield f"## {group}"
        yield ""
        yield from _table([s for s in found if s.name.startswith(f"{group}.")])


def every_setting(group: Any = None, prefix: str = "") -> Iterator[Setting]:
    """All of them, in the order they are declared in."""
    group = Settings() if group is None else group
    for field in fields(type(group)):
        value = getattr(group, field.name)
        name = f"{prefix}{field.name}"
        if isinstance(value, BaseModel) or hasattr(value, "__dataclass_fields__"):
            yield from every_setting(value, f"{name}.")
        else:
            accepts = _accepts(type(group), field.name, field.type)
            yield Setting(name, value, accepts, field.meaning)


def _table(settings: list[Setting]) -> Iterator[str]:
    yield from table(
        ("setting", "default", "accepts", "meaning"),
        (
            (
                code(setting.name),
                code(_text(setting.default)),
                setting.accepts + (", never as a flag" if setting.name in SECRETS else ""),
                setting.meaning,
            )
            for setting in settings
        ),
    )


_WORDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true, false",
    "Path": "path",
    "Path | None": "path",
    "tuple[str, ...]": "list of words",
    "tuple[PositiveFloat, ...]": "list of numbers above 0",
}


def _accepts(group: type, name: str, annotation: str) -> str:
    if annotation.startswith("Literal["):
        return annotation.removeprefix("Literal[").removesuffix("]").replace("'", "")
    return " ".join((_WORDS[annotation], *_bounds(group, name)))


def _bounds(group: type, name: str) -> Iterator[str]:
    if not issubclass(group, BaseModel):
        return
    for bound in group.model_fields[name].metadata:
        match bound:
            case Ge(ge=least):
                yield f"from {least:,}"
            case Gt(gt=least):
                yield f"above {least:,}"
            case Le(le=most):
                yield f"to {most:,}"
            case Lt(lt=most):
                yield f"below {most:,}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

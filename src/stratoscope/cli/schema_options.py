"""Command-line options made from a pydantic model: a field is written once, with one name and one help everywhere."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from stratoscope.errors import SpecError


def schema_options(
    model: type[BaseModel],
    parameter: str,
    *,
    exclude: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    panel: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replaces the function's `parameter` by one option a field of `model`, and hands it the validated model.

    An option that is not given keeps the field's default. A field `min_duration_s` becomes `--min-duration`; its help
    says the unit.

    Args:
        model: the schema.
        parameter: name of the decorated function's parameter that receives the instance.
        exclude: fields that are not options.
        names: field -> option, where the two differ.
        panel: heading of the options in `--help`.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in exclude}
    option_names = {name: (names or {}).get(name, _option_name(name)) for name in fields}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            given = {name: values.pop(name) for name in fields}
            given = {name: value for name, value in given.items() if value not in (None, [], ())}
            return function(**values, **{parameter: _build(model, given, option_names)})

        kept = [p for p in signature.parameters.values() if p.name != parameter]
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_annotation(field, option_names[name], panel),
            )
            for name, field in fields.items()
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in kept] + made
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        del command.__wrapped__
        return command

    return decorate


def _option_name(field: str) -> str:
    return "--" + field.removesuffix("_s").replace("_", "-")


def _build(model: type[BaseModel], given: Mapping[str, Any], option_names: Mapping[str, str]) -> BaseModel:
    try:
        return model(**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = str(first["loc"][0]) if first["loc"] else model.__name__
        option = option_names.get(place, place)
        raise SpecError(f"{option} {first.get('input')!r}: {first['msg']}", hint="see --help for its range") from None


def _annotation(field: FieldInfo, option: str, panel: str | None) -> Any:
    base = _plain_type(field.annotation)
    if base is bool:
        option = f"{option}/--no-{option.removeprefix('--')}"
    return Annotated[
        base | None if not _is_list(base) else base,
        typer.Option(option, help=_help(field), show_default=False, rich_help_panel=panel),
    ]


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    default = field.default
    if default is None or default == () or default == "":
        return text
    shown = getattr(default, "value", default)
    return f"{text} (default: {shown})".strip()


def _is_list(base: Any) -> bool:
    return get_origin(base) is list


def _plain_type(annotation: Any) -> Any:
    """The type without constraints, None and tuples: what a command line can hold."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _plain_type(inner[0])
    if origin is tuple:
        return types.GenericAlias(list, (_plain_type(get_args(annotation)[0]),))
    return annotation

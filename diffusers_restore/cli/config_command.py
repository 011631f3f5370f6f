"""The command of a configuration: an option for each of its fields, and configuration files.

Imports no torch, so that `--help` is answered at once.
"""

from __future__ import annotations

import dataclasses
import datetime
import signal
import types
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click

from ..errors import InvalidInputError, unknown_name
from ..foreign import parse_yaml, read_text
from ..training.config import build, options_of, parts_of


def config_command(name: str, config_class: type, target: str, help: str) -> click.Command:
    """A click command with an option for each field of `config_class`, which calls `target`, "module:function".

    `target` is imported when the command runs; it is called with the configuration and `dry_run`.
    """

    def run(dry_run: bool, config: None, **values: Any) -> None:
        module, _, function = target.partition(":")
        try:
            built = build(config_class, values)
            getattr(import_module(module), function)(built, dry_run=dry_run)
        except (InvalidInputError, FloatingPointError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:  # before the first step, or for the second time
            click.echo("Aborted!", err=True)
            raise SystemExit(128 + signal.SIGINT) from None

    sections: list[tuple[str, list[click.Parameter]]] = []
    for title, part in parts_of(config_class):
        sections.append((title, [_click_option(*one) for one in options_of(part)]))
    params = [param for _, section in sections for param in section]
    common: list[click.Parameter] = [
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            is_eager=True,
            callback=_read_config,
            metavar="FILE",
            help="YAML or JSON file of options, by their names here; the command line overrides it.",
        ),
        click.Option(["--dry_run"], is_flag=True, help="Print all options and what a step costs, and stop."),
    ]
    return _SectionedCommand(name, callback=run, params=common + params, help=help, sections=sections)


class _SectionedCommand(click.Command):
    """A command whose --help groups the options by the parts of the configuration."""

    def __init__(self, *args: Any, sections: list[tuple[str, list[click.Parameter]]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {id(param) for _, section in self._sections for param in section}
        common = [param for param in self.get_params(ctx) if id(param) not in shown]
        for title, section in [*self._sections, ("Options", common)]:
            records = [record for param in section if (record := param.get_help_record(ctx)) is not None]
            with formatter.section(title):
                formatter.write_dl(records)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = parse_yaml(read_text(path), str(path))
    except (InvalidInputError, OSError) as error:
        raise click.BadParameter(str(error), ctx, param) from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{path} must hold options as `name: value` lines", ctx, param)
    known = {one.name: one.type for one in ctx.command.params if one.name not in (None, "config", "dry_run", "help")}
    for name, value in values.items():
        if name not in known:
            raise click.BadParameter(f"{path}: {unknown_name('option', name, known)}", ctx, param)
        fits = not isinstance(value, dict) or isinstance(known[name], _Arguments)
        fits &= not isinstance(value, list) or isinstance(known[name], _WholeNumbers)
        if not fits:
            raise click.BadParameter(f"{path}: {name} must be one value, got {value!r}", ctx, param)
    ctx.default_map = {name: _word(value) for name, value in values.items() if value is not None}


def _word(value: Any) -> Any:
    """A value of a file as typed on the command line, for the options' types to parse; lists and mappings stay."""
    if isinstance(value, list):
        return [_word(one) for one in value]
    if isinstance(value, bool):
        return {True: "yes", False: "no"}[value]  # YAML reads an unquoted no as false
    return str(value) if isinstance(value, (int, float, datetime.date)) else value


class _WholeNumbers(click.ParamType):  # type: ignore[type-arg]  # which older clicks don't take
    name = "integers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(str(one)) for one in (value.split(",") if isinstance(value, str) else value))
        except (TypeError, ValueError):
            self.fail(f"expected whole numbers between commas, such as 32,64,128, got {value!r}", param, ctx)


class _Arguments(click.ParamType):  # type: ignore[type-arg]  # which older clicks don't take
    name = "arguments"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        arguments, reason = value, ""
        if isinstance(value, str):
            try:
                arguments = parse_yaml(value, "which")
            except InvalidInputError as error:
                arguments, reason = None, f", {error}"
        if not isinstance(arguments, dict):
            got = repr(value) if len(str(value)) < 100 else f"{str(value)[:100]!r}..."
            self.fail(f'expected arguments by name, such as "{{taps: 11, std: 7}}", got {got}{reason}', param, ctx)
        return {name: _number(one) for name, one in arguments.items()}


def _number(value: Any) -> Any:
    """Numbers that YAML reads as text, such as 1e-2, as numbers."""
    try:
        return float(value) if isinstance(value, str) and any(one.isdigit() for one in value) else value
    except ValueError:
        return value


def _click_option(name: str, hint: Any, one: dataclasses.Field[Any]) -> click.Option:
    kind = hint
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = (argument for argument in get_args(hint) if argument is not type(None))
    settings: dict[str, Any] = {"default": one.default, "help": one.metadata["help"]}
    settings["show_default"] = one.default is not None and one.default is not False
    if kind is bool:
        return click.Option([f"--{name}/--no_{name}"], **settings)
    if get_origin(kind) is Literal:
        return click.Option([f"--{name}"], type=click.Choice(get_args(kind)), **settings)
    if get_origin(kind) is tuple:
        return click.Option([f"--{name}"], type=_WholeNumbers(), metavar="N,N,...", **settings)
    if get_origin(kind) is Mapping:
        return click.Option([f"--{name}"], type=_Arguments(), metavar='"{NAME: VALUE, ...}"', **settings)
    metavar = {int: "N", float: "X"}.get(kind, "TEXT")
    return click.Option([f"--{name}"], type=kind, metavar=metavar, **settings)

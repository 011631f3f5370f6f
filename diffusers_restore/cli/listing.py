"""`diffusers-restore tasks` and `diffusers-restore methods`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import click

from ..registries import METHODS, TASKS
from ..registry import PlugInError
from ..restoring.kinds import FILE_ARGUMENTS

if TYPE_CHECKING:
    from ..operators import Task


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(as_json: bool) -> None:
    """List the tasks: name, what it restores, its arguments with their defaults.

    \b
    diffusers-restore tasks
    diffusers-restore restore blurred.png -o sharp.png --task deblur-gauss --operator-arg sigma=3 --operator-arg taps=9
    """  # noqa: D301  # click reads the control character
    if as_json:
        listed: list[dict[str, Any]] = []
        for name in TASKS:
            try:
                task: Task = TASKS[name]
            except PlugInError as error:
                listed.append({"name": name, "error": str(error)})
                continue
            arguments = [
                {"name": key, "required": True} if p.default is p.empty else {"name": key, "default": p.default}
                for key, p in task.arguments.items()
            ]
            listed.append({"name": name, "summary": task.summary, "arguments": arguments})
        click.echo(json.dumps(listed, indent=2))
        return
    formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, 120))
    formatter.write_dl([(name, _describe(name)) for name in TASKS])
    click.echo(formatter.getvalue() + "\nArguments in brackets, with their defaults, are set by --operator-arg K=V.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def methods(as_json: bool) -> None:
    """List the zero-shot methods, which restore with a network that was never trained for the damage.

    \b
    diffusers-restore methods
    diffusers-restore restore noisy.png -o clean.png --task denoise --sigma-y 0.2 --method ddrm
    """  # noqa: D301  # click reads the control character
    from ..schedulers.zero_shot import method_options

    listed: list[dict[str, Any]] = []
    for name in METHODS:
        try:
            chosen = METHODS[name]
        except PlugInError as error:
            listed.append({"name": name, "error": str(error)})
            continue
        summary = " ".join((chosen.__doc__ or "").partition("\n\n")[0].split())
        facts = {"summary": summary, "steps": chosen.default_steps, "result": chosen.result}
        options = [{"name": key, "default": default} for key, default in method_options(chosen).items()]
        listed.append({"name": name, **facts, "options": options})
    if as_json:
        click.echo(json.dumps(listed, indent=2))
        return
    formatter = click.HelpFormatter(width=min(shutil.get_terminal_size().columns, 120))
    formatter.write_dl([(row["name"], _of_method(row)) for row in listed])
    click.echo(formatter.getvalue() + "\nOptions in brackets, with their defaults, are set by --method-arg K=V.")


def _of_method(row: dict[str, Any]) -> str:
    """`what it does (20 steps, estimate) [prior_weight=0.23]`, or why a plug-in can't be loaded."""
    if "error" in row:
        return f"({row['error']})"
    made = "" if row["result"] == "neither" else f", {row['result']}"
    options = [f"{one['name']}={json.dumps(one['default'])}" for one in row["options"]]
    return f"{row['summary']} ({row['steps']} steps{made})" + (f" [{', '.join(options)}]" if options else "")


def _describe(name: str) -> str:
    """`blur by a Gaussian [sigma=10, taps=5]`, or why a plug-in can't be loaded."""
    try:
        task: Task = TASKS[name]
    except PlugInError as error:
        return f"({error})"

    def text(name: str, default: Any, required: bool) -> str:
        if required:
            return f"--{name} FILE" if name in FILE_ARGUMENTS else f"{name} (required)"
        if isinstance(default, (tuple, list)):
            return f"{name}=[{','.join(f'{value:g}' for value in default)}]"
        if default is None:
            return f"{name}=null"
        return f"{name}={default:g}" if isinstance(default, float) else f"{name}={default}"

    arguments = ", ".join(text(name, p.default, p.default is p.empty) for name, p in task.arguments.items())
    return task.summary + (f" [{arguments}]" if arguments else "")

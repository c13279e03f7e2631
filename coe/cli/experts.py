"""`coe experts`: the experts of a running gateway, or those of a file, and what to do with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coe.cli.admin_client import DEFAULT_URL, AdminClient, AdminUrlOption, Unreachable, expert_path
from coe.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from coe.errors import ConfigError

if TYPE_CHECKING:
    from coe.experts import Expert

_PATHS = ("path", "model")
"""Keys of an engine that may name a file beside the expert's own."""

experts_app = typer.Typer(help="List the experts, and operate those of a running gateway.")
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The expert.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0.0, help="Seconds to wait until it is done.")
]


@experts_app.callback(invoke_without_command=True)
def experts(
    context: typer.Context,
    config: ConfigOption = DEFAULT_CONFIG,
    admin_url: AdminUrlOption = DEFAULT_URL,
    offline: Annotated[bool, typer.Option(help="List those of the file, as configured.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the experts of the running gateway, or of the file where none is reached."""
    context.obj = (admin_url, as_json)
    if context.invoked_subcommand is not None:
        return
    if not offline:
        try:
            listed = AdminClient(admin_url).get("experts")["data"]
        except (Unreachable, ConfigError) as error:
            print(f"coe: {error}\ncoe: these are the experts of {config}:", file=sys.stderr)
        else:
            _show(listed, as_json, _running_rows)
            return
    from coe.config import load_config

    _show([_configured(expert) for expert in load_config(config).pool], as_json, _configured_rows)


@experts_app.command()
def warm(context: typer.Context, expert_id: IdArgument, wait: WaitOption = 600.0) -> None:
    """Load or wake an expert before anybody asks for it."""
    _act(context, "POST", expert_path(expert_id, "warm"), wait, f"{expert_id} is warm")


@experts_app.command()
def sleep(context: typer.Context, expert_id: IdArgument, wait: WaitOption = 30.0) -> None:
    """Send an expert to host memory, or to disk if it cannot sleep."""
    _act(context, "POST", expert_path(expert_id, "sleep"), wait, f"{expert_id} has left")


@experts_app.command()
def stop(context: typer.Context, expert_id: IdArgument, wait: WaitOption = 30.0) -> None:
    """Stop an expert once what runs has ended; a later request starts it again."""
    _act(context, "POST", expert_path(expert_id, "stop"), wait, f"{expert_id} was stopped")


@experts_app.command()
def remove(context: typer.Context, expert_id: IdArgument, wait: WaitOption = 30.0) -> None:
    """Take an expert out of the running pool; experts.yaml stays as it is."""
    _act(context, "DELETE", expert_path(expert_id), wait, f"{expert_id} was removed")


@experts_app.command()
def add(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="One expert as in experts.yaml, or several.")],
) -> None:
    """Add experts to the running pool; experts.yaml stays as it is."""
    url, as_json = context.obj
    for given in _experts_in(file):
        reply = AdminClient(url).call("POST", "experts", given)
        _tell(reply, as_json, f"{reply['expert']['id']} was added")


def _act(context: typer.Context, method: str, path: str, wait_s: float, done: str) -> None:
    url, as_json = context.obj
    reply = AdminClient(url).call(method, f"{path}?wait_s={wait_s:g}", wait_s=wait_s)
    _tell(reply, as_json, done if reply["done"] else "not done yet; the gateway goes on with it")


def _tell(reply: Mapping[str, Any], as_json: bool, text: str) -> None:
    if as_json:
        print(json.dumps(reply))
        return
    print(text)
    for note in reply.get("notes", ()):
        print(f"  {note}")


def _experts_in(file: Path) -> list[Mapping[str, Any]]:
    """The file's experts, with paths as they are seen from here."""
    from coe.config.reading import read_yaml

    found = read_yaml(file)
    several = found.get("experts", [found])
    if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
        raise ConfigError("must be one expert, or a list of them", file=str(file), key="experts")
    return [_placed(one, file.resolve().parent) for one in several]


def _placed(expert: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The gateway reads relative paths as relative to its own file."""
    engine = expert.get("engine")
    if not isinstance(engine, dict):
        return expert
    files = {key: folder / str(engine[key]) for key in _PATHS if key in engine}
    found = {key: str(path) for key, path in files.items() if path.exists()}
    return {**expert, "engine": {**engine, **found}}


def _configured(expert: Expert) -> dict[str, Any]:
    from coe.config.describing import kind_of

    return {
        "id": expert.id,
        "kind": kind_of(expert.engine),
        "gib": expert.footprint.gib,
        "asleep_gib": expert.footprint.asleep_gib,
        "devices": [list(place) for place in expert.hosting.devices],
        "pinned": expert.hosting.pinned,
    }


def _show(listed: Sequence[Mapping[str, Any]], as_json: bool, rows: Any) -> None:
    if as_json:
        print(json.dumps(listed))
        return
    from coe.cli.table import print_table

    print_table(rows(listed))


def _configured_rows(listed: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    head = ["expert", "kind", "GiB", "devices", "sleeps"]
    return [head, *([*_names(one), *_where(one)] for one in listed)]


def _names(one: Mapping[str, Any]) -> list[str]:
    return [str(one["id"]) + (" (pinned)" if one["pinned"] else ""), one["kind"]]


def _where(one: Mapping[str, Any]) -> list[str]:
    gib = f"{one['gib']:g}" if one["gib"] else "-"
    places = ["+".join(place) for place in one["devices"]]
    sleeps = "no" if one["asleep_gib"] is None else f"{one['asleep_gib']:g} GiB"
    return [gib, ",".join(places) or "any", sleeps]


def _running_rows(listed: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    from coe.cli.frames import expert_cells

    head = ["expert", "kind", "state", "devices", "GiB", "waiting", "running", "answers"]
    return [head, *(expert_cells(one) for one in listed)]

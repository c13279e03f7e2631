"""The command line: one file a command, nothing but wiring.

Exit codes: 0 done, 1 an expert failed, 2 the command, a file or the data is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from coe.cli.ask import ask
from coe.cli.batch import batch
from coe.cli.data import data_app
from coe.cli.eval import eval_app
from coe.cli.experts import experts_app
from coe.cli.fit import fit
from coe.cli.init import init
from coe.cli.keys import keys_app
from coe.cli.options import with_given_config
from coe.cli.place import analyze, place
from coe.cli.route import route
from coe.cli.serve import serve
from coe.cli.top import top
from coe.errors import CoeError, ConfigError, DatasetError, RoutingError

app = typer.Typer(
    help="A compound-AI router over multiple expert LLMs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (init, serve, route, ask, batch, fit, place, analyze, top):
    app.command()(command)
app.add_typer(eval_app, name="eval")
app.add_typer(data_app, name="data")
app.add_typer(experts_app, name="experts")
app.add_typer(keys_app, name="keys")


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    if version:
        from coe import __version__

        print(__version__)
        raise typer.Exit


def main(run: Callable[[], object] = app) -> None:
    """Runs the command; errors raised on purpose become one line on stderr."""
    try:
        run()
    except (ConfigError, DatasetError, RoutingError) as error:
        _fail(error, 2)
    except CoeError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, which ends the command without a complaint.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> None:
    print(f"coe: {with_given_config(str(error))}", file=sys.stderr)
    sys.exit(code)

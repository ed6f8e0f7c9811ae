"""The `mfscsn` command. Errors that a user can mend are one line and exit code 2; a failed run exits with 1."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from data.errors import FailedError, InputError, printable
from experiments.cli.beetl import app as beetl_app
from experiments.cli.begin import app as begin_app
from experiments.cli.layers import app as layers_app
from experiments.cli.measure import app as measure_app
from experiments.cli.online import app as online_app
from experiments.cli.options import BEETL, DEPLOY
from experiments.cli.privacy import app as privacy_app
from experiments.cli.server import app as server_app
from experiments.cli.site import app as site_app
from experiments.cli.train import app as train_app
from federation.guard import keep_loopback_direct
from mfscsn.packages import missing_extra

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    suggest_commands=False,  # click does
    pretty_exceptions_enable=False,
    help="Federated motor-imagery EEG: only the common layers leave a site.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(begin_app)
app.add_typer(train_app)
app.add_typer(layers_app)
app.add_typer(online_app)
app.add_typer(measure_app)
app.add_typer(beetl_app, name="beetl", rich_help_panel=BEETL)
app.add_typer(privacy_app, name="privacy", rich_help_panel=DEPLOY)
app.add_typer(server_app, name="server", rich_help_panel=DEPLOY)
app.add_typer(site_app, name="site", rich_help_panel=DEPLOY)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mfscsn {version('mfscsn')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Take what stands before a command."""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that was typed, or `words`; turn what a user can mend into one line."""
    os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")
    keep_loopback_direct()
    try:
        code = app(args=words, prog_name="mfscsn", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:  # a command group without a command
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        print(f"error: {printable(error.format_message())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (InputError, OSError) as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(2)
    except FailedError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # no mistake of the user's
        typed = list(sys.argv[1:] if words is None else words)
        of = "deployment" if typed[:1] in (["server"], ["site"]) else None
        if isinstance(error, ImportError) and (line := missing_extra(error, of)):
            print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        print("error: this is a fault in mfscsn; report it with all of the lines above", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

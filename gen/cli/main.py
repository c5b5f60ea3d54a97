"""`popshift`: the commands, and how what goes wrong is told.

A command is one file with a function that carries typer's annotations, and one entry in `COMMANDS`. Files
import typer and light contracts at the top and everything heavy (torch, amaranth) inside the function: help
appears at once.
"""

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from popshift.gen.cli import (
    bench,
    boards,
    build,
    compile,
    configs,
    demo,
    deploy,
    doctor,
    explain,
    generate,
    run,
    simulate,
    test,
)
from popshift.hw.errors import EXIT_ENVIRONMENT, EXIT_FAILED, PopshiftError

COMMANDS: list[tuple[str, Callable[..., None]]] = [
    ("doctor", doctor.doctor),
    ("configs", configs.configs),
    ("boards", boards.boards),
    ("generate", generate.generate),
    ("compile", compile.compile_),
    ("explain", explain.explain),
    ("simulate", simulate.simulate),
    ("build", build.build),
    ("deploy", deploy.deploy),
    ("run", run.run),
    ("bench", bench.bench),
    ("test", test.test),
    ("demo", demo.demo),
]

EXIT_INTERRUPTED = 130
"""What shells report for a command ended by Ctrl-C."""

_settings = {"debug": False}

app = typer.Typer(
    help="Neural network accelerators for open FPGA boards: generate, prove in simulation, deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(metadata.version("popshift"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _settings["debug"] = debug


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command: an error becomes one line on standard error (--debug: behind its
    traceback) and an exit status."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            typer.echo("error: interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output (head, a pager) has seen enough; spare Python's complaint at exit, too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILED) from None
        except Exception as error:
            if _settings["debug"]:
                traceback.print_exc()
            # Amaranth's, of what the error left half made.
            warnings.filterwarnings("ignore", message=".*created but never used")
            text, status = _explained(error)
            typer.echo(f"error: {_one_line(text)}", err=True)
            raise typer.Exit(status) from None

    return run


def _one_line(text: str) -> str:
    """Several problems of one error, a line each behind a summary, stand side by side."""
    summary, *problems = (" ".join(line.split()) for line in text.splitlines())
    return " ".join([summary, " | ".join(problems)]) if problems else summary


def _explained(error: Exception) -> tuple[str, int]:
    if isinstance(error, PopshiftError):
        return str(error), error.exit_status
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("popshift"):
        return f"the Python package {error.name} is not installed; run: popshift doctor", EXIT_ENVIRONMENT
    return f"unexpected {type(error).__name__}: {error}; run with popshift --debug …", EXIT_FAILED


for _name, _command in COMMANDS:
    app.command(_name)(reporting(_command))


def main() -> None:
    """Entry point of the command `popshift`."""
    app(prog_name="popshift")


if __name__ == "__main__":
    main()

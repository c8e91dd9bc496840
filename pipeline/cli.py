"""The command line: `vitcop …`. Commands are loaded when they are asked for; errors are one line and an exit status."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from vitcop.pipeline.failures import describe, one_line

COMMANDS = ("run", "calibrate", "export", "build", "verify", "bench", "report", "generate", "inspect", "doctor")
"""In the order of the road. `commands/<name>.py` holds each, as `command`."""

# Libraries below us greet, advise and draw bars on stderr by default; what they say at errors still comes through.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Vitcop(click.Group):
    """The group of all commands, which turns whatever is raised into one line on stderr and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return import_module(f"vitcop.pipeline.commands.{cmd_name}").command if cmd_name in COMMANDS else None

    def main(self, *args: Any, standalone_mode: bool = True, ends_process: bool = False, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False  # click itself tells no error and ends no process
        if not standalone_mode:
            return super().main(*args, **kwargs)
        interrupts = _Interrupts(ends_process)
        try:
            with interrupts.heeded():
                status = super().main(*args, **kwargs)
        except click.exceptions.Exit as stop:
            status = stop.exit_code
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            status = error.exit_code
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "vitcop"
            status = _complain(2, one_line(f"{error.format_message()} (see `{path} --help`)"))
        except click.ClickException as error:
            status = _complain(error.exit_code, one_line(error.format_message()))
        except (click.Abort, KeyboardInterrupt):
            status = _complain(*describe(KeyboardInterrupt()))
        except Exception as error:  # the one place where everything ends
            if _debugging:
                raise
            status = _complain(*describe(KeyboardInterrupt() if interrupts.came else error))
        sys.exit(status if isinstance(status, int) else 0)


class _Interrupts:
    """SIGINT and SIGTERM end a command in the same way, exit status included, so that what was half written is removed.

    `came` remembers one: where a KeyboardInterrupt passes through C++ code, as in torch's tracer, it comes out as some
    other error.

    Args:
        ends_process: whether the process ends with the command. Then both are ignored once it is over: the status is
            decided, and would be lost to a signal that comes while the interpreter ends.
    """

    def __init__(self, ends_process: bool) -> None:
        self.came, self._ends_process = False, ends_process

    def _interrupt(self, number: int, frame: Any) -> None:
        self.came = True
        raise KeyboardInterrupt

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Handle both while the command runs; a signal that the shell has this process ignore stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            if self._ends_process:
                # Python notes an interrupt that leaves code made from text, as `dataclasses` and named tuples make it,
                # and ends a process of `python -m` by that signal, whatever became of it since. This forgets it.
                exec("")
            for number, handler in before.items():
                after = signal.SIG_IGN if self._ends_process else handler
                signal.signal(number, after if after is not None else signal.SIG_DFL)


_debugging = False


def _complain(status: int, line: str) -> int:
    click.echo(f"vitcop: error: {line}", err=True)
    return status


def _start_debugging(ctx: click.Context, parameter: click.Parameter, value: bool) -> bool:
    global _debugging
    _debugging = value
    return value


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from vitcop.pipeline.versions import vitcop_version

        click.echo(f"vitcop {vitcop_version()}")
        ctx.exit()


@click.group(
    cls=Vitcop,
    name="vitcop",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 fine; 1 a bug of vitcop; 2 wrong input; 3 an accuracy or regression gate failed; "
    "4 something is missing on this machine; 130 interrupted (by Ctrl-C or SIGTERM).",
)
@click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_start_debugging,
    is_eager=True,
    help="Show the trace of an error.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, callback=_print_version, is_eager=True, help="Show the version."
)
def cli() -> None:
    """Compile vision-language models into engines that drop visual tokens as they run.

    The whole road is `vitcop run RECIPE -o OUT`; the other commands are its stages, one by one.
    """


def main() -> None:
    """Entry point of the `vitcop` command."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "--debug" not in sys.argv and not sys.warnoptions:
        # Warnings of libraries are for those who write code; `python -W` and --debug bring them back.
        warnings.simplefilter("ignore")
    cli.main(prog_name="vitcop", ends_process=True)


if __name__ == "__main__":
    main()

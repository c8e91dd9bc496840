"""Help pages are frozen as text; asking for help loads nothing heavy; versions and exit statuses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitcop.pipeline.cli import COMMANDS
from vitcop.pipeline.failures import describe
from vitcop.pipeline.recipe_reference import recipe_reference
from vitcop.plugins.errors import GateError, InputError, MissingError

GOLDEN = Path(__file__).parent / "golden"
HEAVY = ("torch", "transformers", "onnxruntime", "onnx", "matplotlib", "pydantic", "numpy", "PIL", "jinja2", "rich")


def compare(name: str, text: str) -> None:
    """Against golden/NAME; VITCOP_UPDATE_GOLDEN=1 writes it anew."""
    file = GOLDEN / name
    if os.environ.get("VITCOP_UPDATE_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_page(invoke, command):
    result = invoke(*([command] if command else []), "--help")
    assert result.exit_code == 0 and result.stderr == ""
    compare(f"help{'-' * bool(command)}{command}.txt", result.stdout)


def test_recipe_reference(invoke):
    compare("recipe-keys.txt", recipe_reference())
    assert invoke("run", "--keys").stdout == recipe_reference()


@pytest.mark.parametrize("args", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(args):
    code = (
        "import sys\nfrom vitcop.pipeline.cli import cli\n"
        f"try:\n    cli({args!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_package_loads_nothing_heavy():
    code = f"import sys, vitcop.pipeline\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_steps_are_functions_of_the_package():
    import vitcop.pipeline as pipeline

    for name in pipeline.__all__:
        assert callable(getattr(pipeline, name)) and getattr(pipeline, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = pipeline.nothing


def test_bare_name_is_refused():
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); import pipeline"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "vitcop.pipeline" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a"), 2),
        (GateError("a"), 3),
        (MissingError("a"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("a"), 1),
        (MemoryError(), 4),
    ],
)
def test_exit_status_of_each_error(error, status):
    assert describe(error)[0] == status


def test_our_own_bug_is_one_line_and_a_trace_with_debug(invoke, fake_stages, project):
    fake_stages.fail["export"] = RuntimeError("two\nlines")
    result = invoke("run", project / "recipe.yaml", "-o", project / "out")
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert (
        last
        == "vitcop: error: this is a bug in vitcop (RuntimeError: two lines); `vitcop --debug …` shows the trace to "
        "report it with"
    )
    result = invoke("--debug", "run", project / "recipe.yaml", "-o", project / "out")
    assert isinstance(result.exception, RuntimeError)
    assert invoke("run", project / "recipe.yaml", "-o", project / "out").exit_code == 1


class Swallowed(dict):
    """A stage's failure: an interrupt that arrives in C++ code, which makes a TypeError of it."""

    def __contains__(self, stage):
        if stage != "export":
            return False
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("KeyboardInterrupt: <EMPTY MESSAGE>") from None
        raise AssertionError("the interrupt did not arrive")


@pytest.fixture
def heeding_interrupts():
    """A shell has background processes ignore SIGINT, and the tests with them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_interrupts")
def test_an_interrupt_that_a_library_turned_into_another_error(invoke, fake_stages, project):
    fake_stages.fail = Swallowed()
    result = invoke("run", project / "recipe.yaml", "-o", project / "out")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr.splitlines()[-1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("heeding_interrupts")
def test_an_ignored_interrupt_stays_ignored(invoke, fake_stages, project):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fake_stages.fail = Swallowed()
    result = invoke("run", project / "recipe.yaml", "-o", project / "out")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_no_progress_bar_where_nobody_watches(invoke, fake_stages, project):
    result = invoke("run", project / "recipe.yaml", "-o", project / "out")
    assert result.exit_code == 0
    assert "\x1b" not in result.stderr and "\r" not in result.stderr
    assert result.stdout.splitlines()[-1] == "PASSED"


@pytest.mark.parametrize("moment", ["in code made from text", "while the interpreter ends"])
def test_an_interrupt_ends_with_its_status_at_any_moment(tmp_path, moment):
    """Run as a module: there Python ends a process by the signal where an interrupt left code made from text."""
    body = {
        "in code made from text": 'exec("import signal; signal.raise_signal(signal.SIGINT)")',
        "while the interpreter ends": "atexit.register(signal.raise_signal, signal.SIGINT)",
    }[moment]
    (tmp_path / "stopped.py").write_text(
        f"import atexit, signal, sys\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from vitcop.pipeline import cli\n"
        f"def command():\n    {body}\n"
        f"cli.Vitcop.get_command = lambda *_: cli.click.Command('late', callback=command)\n"
        f"sys.argv = ['vitcop', 'late']\n"
        f"cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-m", "stopped"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == (130 if moment == "in code made from text" else 0), done.stderr
    assert "Traceback" not in done.stderr

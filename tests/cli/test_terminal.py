"""Whatever a command prints, a terminal only ever gets text and the escapes that this program chose."""

import ast
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from rich.progress import BarColumn, Progress

import moe_ray
from moe_ray.cli.main import app
from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import EXIT_USAGE, LineColumn, Terminal, reported, safe_streams
from moe_ray.report.text_table import TextTable

PACKAGE = Path(moe_ray.__file__).parent
HOSTILE = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\r\x08e\udc80[bold]f[/nope] :skull:"
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def unsafe_in(shown: str) -> str:
    """What is left of `shown` when its styles and its safe characters are gone."""
    return re.sub(r"[\n\t\x20-\x7e\u00a0-\u2009\u2010-\u2027\u2030-\u2065\u2070-\ud7ff\ue000-\U0010ffff]", "", shown)


def drawn(print_it: Callable[[Terminal], object], *, terminal: bool = False) -> str:
    file = io.StringIO()
    print_it(Terminal(file=file, force_terminal=terminal, width=200))
    return file.getvalue()


def table(cell: str) -> TextTable:
    made = TextTable(title=cell)
    made.add_column(cell)
    made.add_row(cell)
    return made


@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
@pytest.mark.parametrize("renderable", [HOSTILE, table(HOSTILE)], ids=["text", "table"])
def test_hostile_text_reaches_no_terminal(renderable: object, terminal: bool) -> None:
    shown = drawn(lambda console: console.print(renderable, style="red"), terminal=terminal)
    assert unsafe_in(STYLES.sub("", shown)) == ""
    assert "\\u001b]0;owned\\u0007b" in shown
    assert "[bold]f[/nope] :skull:" in shown, "text is no markup"
    assert bool(STYLES.search(shown)) is terminal


def test_a_cell_of_a_table_makes_no_row_of_its_own() -> None:
    shown = drawn(lambda console: console.print(table("id\nforged row")))
    assert "id\\nforged row" in shown
    assert not any(line.strip().startswith("forged") for line in shown.splitlines())


def test_a_progress_display_shows_hostile_names_as_text() -> None:
    def show(console: Terminal) -> None:
        with Progress(LineColumn("{task.description}"), BarColumn(), console=console) as progress:
            progress.add_task("\x1b[2J\u202e[b]", total=2, completed=1)

    shown = drawn(show, terminal=True)
    controls = re.compile(r"\x1b\[[0-9;?]*[mhlAKJG]|\r")
    assert unsafe_in(controls.sub("", shown)) == ""
    assert "\\u001b[2J\\u202e[b]" in shown


def test_an_event_of_a_run_is_told_in_lines_that_cannot_be_mistaken_for_others() -> None:
    def show(console: Terminal) -> None:
        with ProgressDisplay(console) as display:
            display.replica("m-1", "m", "failed", "HTTP 500\nReport: /tmp/forged\x1b[2J")

    lines = drawn(show).splitlines()
    assert lines[0].startswith("m-1: could not load its model")
    assert [line for line in lines[1:] if not line.startswith(" ")] == []


@contextmanager
def caught() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Give the program other standard streams."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        yield out, err


def test_what_libraries_print_and_log_is_made_safe_too() -> None:
    with caught() as streams, safe_streams():
        sys.stdout.write(HOSTILE)
        handler = logging.StreamHandler()
        logging.getLogger("somebody").addHandler(handler)
        logging.getLogger("somebody").warning(HOSTILE)
        logging.getLogger("somebody").removeHandler(handler)
        sys.stdout.writelines(["10 %\r", "20 %\r"])
    out, err = (stream.getvalue() for stream in streams)
    assert unsafe_in(out + err) == ""
    assert "owned\\u0007" in err
    assert "10 %\n20 %\n" in out, "a bar that is drawn over itself is told line by line"


def test_the_streams_are_as_before_afterwards() -> None:
    with caught() as streams:
        with suppress(KeyError), safe_streams():
            assert sys.stdout is not streams[0]
            raise KeyError
        assert (sys.stdout, sys.stderr) == streams


def test_a_key_of_an_experiment_file_steers_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text('name: x\n"mo\\e[2Jdels\\u202e\\nReport: forged": 1\n', encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["moe-ray", "plan", str(file)])
    assert reported(app) == EXIT_USAGE
    shown = capsys.readouterr().err
    assert unsafe_in(shown) == ""
    assert "\\u001b[2J" in shown
    assert not any(line.startswith("Report") for line in shown.splitlines())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("arguments", [["--help"], ["plan", "\u533b\u5b66\udcff.yaml"]], ids=["help", "file name"])
def test_no_encoding_of_a_terminal_ends_a_command(encoding: str, arguments: list[str]) -> None:
    command = [os.fsencode(part) for part in (sys.executable, "-m", "moe_ray", *arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60)
    assert done.returncode in (0, EXIT_USAGE), done.stderr
    assert b"Traceback" not in done.stderr


def test_a_warning_and_an_error_that_nobody_expected_steer_no_terminal(tmp_path: Path) -> None:
    """Both are printed by Python itself, the second when the program is over."""
    (tmp_path / "faulty.py").write_text(
        "import warnings\n"
        "import moe_ray.cli.files as setup\n"
        "import moe_ray.cli.main as main\n"
        "def write_starter(file):\n"
        "    warnings.warn('warned \\x1b[2J')\n"
        "    raise RuntimeError('raised \\x1b[2J')\n"
        "setup.write_starter = write_starter\n"
        "main.run()\n"
    )
    command = [sys.executable, str(tmp_path / "faulty.py"), "init", str(tmp_path / "x.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 1
    assert unsafe_in(done.stderr) == ""
    assert "warned \\u001b[2J" in done.stderr
    assert "RuntimeError: raised \\u001b[2J" in done.stderr


def test_no_encoding_of_a_terminal_ends_a_table() -> None:
    code = (
        "import sys\n"
        "from moe_ray.cli.terminal import Terminal, safe_streams\n"
        "from moe_ray.report.text_table import TextTable\n"
        "with safe_streams():\n"
        "    table = TextTable(title='\\u533b \\u00b1')\n"
        "    table.add_column('\\u2265')\n"
        "    table.add_row('\\u202e')\n"
        "    Terminal().print(table)\n"
        "    sys.stdout.write('\\u533b')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"\\u533b" in done.stdout
    assert "±".encode("cp1252") in done.stdout


FORBIDDEN = {"Console", "print", "echo", "secho", "TextColumn", "Table", "rprint", "print_json"}
# Programs of their own on a cluster write to the log of their job.
PRINTING = {"cli/terminal.py", "report/text_table.py", "clusters/ray_jobs/driver.py", "clusters/ray_jobs/send.py"}


def calls(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Each call's line, the name that is called, and whether it is a method."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.lineno, node.func.id, False
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.lineno, node.func.attr, True


def test_commands_and_reports_print_in_one_place_alone() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for part in ("cli", "report")
        for path in sorted((PACKAGE / part).rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in PRINTING
        for line, name, is_method in calls(path)
        if name in FORBIDDEN and not (is_method and name == "print")
    ]
    assert found == []


def test_no_part_writes_to_the_standard_streams_itself() -> None:
    writers = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() not in PRINTING and "guest" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"sys\.(stdout|stderr)\.(write|buffer)|\bsys\.__std", line)
    ]
    assert writers == []

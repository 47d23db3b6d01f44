"""All printing: consoles and standard streams that show untrusted text safely."""

import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO, cast

import typer
import typer.exceptions
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Task, TextColumn
from rich.segment import Segment
from rich.text import Text

from moe_ray.characters import indented, one_line, printable
from moe_ray.errors import RunFailedError, UserError
from moe_ray.execution import interruption


class Terminal(Console):
    """A console that takes no text for markup or emoji, and shows what would steer the terminal as escapes.

    The styles and cursor movements that rich itself adds are kept.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` as rich shows it; it is made safe before its lines are measured and wrapped."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything; whatever way text took to get here, it leaves safe."""
        if isinstance(renderable, Text) and renderable.plain != printable(renderable.plain):
            renderable = _safe_text(renderable)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def _safe_text(text: Text) -> Text:
    return Text(
        printable(text.plain), style=text.style, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap
    )


def output_console(*, soft_wrap: bool = False) -> Terminal:
    """A console on standard output. With `soft_wrap` it breaks no line: paths stay whole when they are copied."""
    return Terminal(soft_wrap=soft_wrap)


def error_console() -> Terminal:
    """A console on standard error that breaks no line."""
    return Terminal(stderr=True, soft_wrap=True)


class LineColumn(TextColumn):
    """A column of a progress display: one line of text, never markup."""

    def render(self, task: Task) -> Text:
        """Return the column's text for `task`."""
        return Text(one_line(self.text_format.format(task=task)))


@contextmanager
def safe_streams() -> Iterator[None]:
    """Make safe what anybody writes to the standard streams: libraries, warnings, loggers, tracebacks.

    A character that the stream's encoding lacks is written as an escape, in place of a `UnicodeEncodeError`.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        _escape_what_cannot_be_encoded(stream)
    sys.stdout, sys.stderr = (cast(TextIO, _SafeStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def write_piece(text: str) -> None:
    """Write a piece of an answer to the standard output as it is, but safe: rich would expand its tabs."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What `sys.excepthook` does, with the error's own text made safe."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))


def _escape_what_cannot_be_encoded(stream: Any) -> None:
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


class _SafeStream:
    """A text stream before `stream`. `rich_proxied_file` is where rich looks for the stream behind a stand-in."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(printable(_without_returns(text)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def _without_returns(text: str) -> str:
    """`text` with a new line wherever it would go back to the beginning of one: bars of libraries do that."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _remedy(error: typer.exceptions.TyperException) -> str:
    context: Any = getattr(error, "ctx", None)
    if context is not None and any(one.name == "words" for one in context.command.params):
        names: list[str] = []
        while context.parent is not None:
            names, context = [context.info_name, *names], context.parent
        path = " ".join(("moe-ray", *names))
        return f"{path} --help lists options; those of another command go last: ... -- COMMAND ..."
    return "moe-ray --help lists commands and options"


EXIT_RUN_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def reported(app: typer.Typer) -> int:
    """Run `app` and return its exit code. A user's mistake is printed without a traceback; other errors keep theirs."""
    console = error_console()
    try:
        with safe_streams(), interruption.listening():
            result = app(standalone_mode=False)
    except UserError as error:
        console.print("error: ", style="bold red", end="")
        console.print(indented(str(error)))
        return EXIT_USAGE
    except RunFailedError as error:
        console.print("incomplete: ", style="bold yellow", end="")
        console.print(indented(str(error)))
        return EXIT_RUN_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.exceptions.TyperException as error:
        console.print("error: ", style="bold red", end="")
        console.print(f"{indented(error.format_message())}\n  remedy: {_remedy(error)}")
        return EXIT_USAGE
    return result if isinstance(result, int) else 0

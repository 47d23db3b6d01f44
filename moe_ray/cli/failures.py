"""How a command ends when something went wrong."""

import typer
import typer.exceptions

from moe_ray.cli.terminal import error_console, safe_streams
from moe_ray.errors import RunFailedError, UserError
from moe_ray.execution import interruption
from moe_ray.printable import indented

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
        console.print(f"{indented(error.format_message())}\n  remedy: moe-ray --help lists commands and options")
        return EXIT_USAGE
    return result if isinstance(result, int) else 0

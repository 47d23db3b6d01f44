"""docs/reference/cli.md lists every command and option as the code has them.

Write it again with `python -m tests.cli.test_cli_docs`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from moe_ray.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
INTRODUCTION = """\
# Command line

`moe-ray COMMAND --help` prints the same. `moe-ray --install-completion` lets the shell complete commands and options.

Exit codes: 0 done; 1 the run ended before everything was computed, results so far are kept; 2 a usage error, with its
cause and remedy; 130 interrupted.
"""


def page() -> str:
    return INTRODUCTION + "".join(section(name, command) for name, command in commands(typer.main.get_command(app)))


def commands(group: Any, prefix: str = "moe-ray") -> Iterator[tuple[str, Any]]:
    """All commands below `group`, by full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def section(name: str, command: Any) -> str:
    arguments = [param for param in command.params if not param.opts[0].startswith("-")]
    options = [param for param in command.params if param.opts[0].startswith("-")]
    usage = " ".join([name, *map(placeholder, arguments), *(["[OPTIONS]"] if options else [])])
    rows = [(placeholder(param), param.help or "") for param in arguments]
    rows += [(spelling(param), (param.help or "") + default(param)) for param in options]
    lines = [f"\n## {name}\n", f"    {usage}\n", f"{command.help}\n"]
    if rows:
        lines += ["| argument or option | meaning |", "| --- | --- |"]
        lines += [f"| `{escaped(cell)}` | {escaped(meaning)} |" for cell, meaning in rows]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text for the cell of a table, in which a bare | would begin the next cell."""
    return text.replace("|", "\\|")


def placeholder(param: Any) -> str:
    name = (param.metavar or param.name).upper()
    return name if param.required else f"[{name}]"


def spelling(param: Any) -> str:
    value = "" if param.is_flag else f" {param.metavar or param.name.upper()}"
    return ", ".join([*param.opts, *param.secondary_opts]) + value


def default(param: Any) -> str:
    """What the option is without being given, where that says something."""
    if param.required:
        return " Required."
    return "" if param.default in (None, False, True) or callable(param.default) else f" Default: {param.default}."


def test_the_page_of_commands_is_what_the_code_has() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.cli.test_cli_docs"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

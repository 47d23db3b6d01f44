"""Commands that make files for a person to edit or keep: the starter experiment, prepared data."""

from pathlib import Path

from moe_ray.cli.terminal import output_console
from moe_ray.config.dump import schema_text, schema_uri, starter_text
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import UserError


def write_starter(file: Path) -> None:
    """Write the starter experiment; an existing file is never overwritten."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(f"# yaml-language-server: $schema={schema_uri()}\n{starter_text()}")
    except FileExistsError as error:
        raise UserError("exists already", where=str(file), remedy="name another file, or remove this one") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(file), remedy="name another file") from error
    console = output_console(soft_wrap=True)
    console.print(f"Wrote {file}. Edit it, then:\n  moe-ray plan {file}\n  moe-ray evaluate {file}")


def print_schema() -> None:
    """Print the schema of experiment files, as its file in the package holds it."""
    output_console(soft_wrap=True).print(schema_text(), end="")


def prepare_data(experiment: LoadedExperiment, out: Path, max_examples: int) -> None:
    """Write the prepared records of every domain below `out`, and say what no tool can fetch."""
    from moe_ray.domains.prepare import FETCH_BY_HAND, prepare_domain

    console = output_console(soft_wrap=True)
    for name, domain in experiment.config.domains.items():
        done = prepare_domain(name, domain, experiment.base_dir, out, limit=max_examples)
        console.print(f"{name}: {done.num_examples} of {done.num_available} examples in {done.path}")
    console.print(f"Name a file in data.source to run without a network, such as ./{out}/NAME.jsonl.")
    console.print("To be fetched by hand:")
    for line in FETCH_BY_HAND:
        console.print(f"  - {line}")

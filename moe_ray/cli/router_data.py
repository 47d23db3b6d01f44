"""`moe-ray router data`: the router's texts and the experts' examples, as files, and tables of what they are."""

from pathlib import Path

from moe_ray.atomic import write_directory_atomically
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.loading import load_domain
from moe_ray.domains.prepare import prepare_domain
from moe_ray.errors import DataError
from moe_ray.report.format import NONE, plural
from moe_ray.report.text_table import TextTable
from moe_ray.routing.data.files import FOREIGN_DIR, REPORT_FILE, TEST_FILE, TRAIN_FILE, write_texts_files
from moe_ray.routing.data.read import RouterData, read_texts
from moe_ray.routing.data.report import REASONS, DataReport, split_counts, splits_of
from moe_ray.routing.texts import RouterTexts

EXPERT_DIR = "expert_eval"
_OWN_NAMES = frozenset({TRAIN_FILE, TEST_FILE, REPORT_FILE, FOREIGN_DIR, EXPERT_DIR})


def write_router_data(experiment: LoadedExperiment, out: Path) -> None:
    """Write the texts of the experiment's router, and the examples that its run evaluates, below `out`.

    `out` appears whole or not at all. Raises what `read_texts` and `prepare_domain` raise, and `DataError` when `out`
    holds anything that this command does not write.
    """
    _require_replaceable(out)
    domains = experiment.config.domains
    run_examples = {name: load_domain(name, domain, experiment.base_dir).examples for name, domain in domains.items()}
    data = read_texts(experiment, run_examples)

    def write(directory: Path) -> None:
        write_texts_files(directory, data.texts, data.report)
        for name, domain in domains.items():
            prepare_domain(name, domain, experiment.base_dir, directory / EXPERT_DIR, suffix=".json")

    try:
        write_directory_atomically(out, write)
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error
    _tell(data, out)


def _require_replaceable(out: Path) -> None:
    """Raise `DataError` when writing `out` anew would remove something that this command does not write."""
    if not out.exists():
        return
    foreign = sorted({path.name for path in out.iterdir()} - _OWN_NAMES) if out.is_dir() else [out.name]
    if foreign:
        raise DataError(
            f"holds {foreign[0]}, which this command does not write and will not remove",
            where=str(out),
            remedy="name another folder with --out",
        )


def _tell(data: RouterData, out: Path) -> None:
    console = output_console()
    console.print(_splits_table(data.texts))
    console.print(_sources_table(data.report))
    for reason, meaning in REASONS.items():
        if any(source.dropped.get(reason) for source in data.report.sources):
            console.print(f"  {reason}: {meaning}", soft_wrap=True)
    if num_unbalanced := sum(data.report.num_unbalanced.values()):
        console.print(f"Balance left out {plural(num_unbalanced, 'text')} of the larger labels.")
    console.print(f"\nWrote {out}", soft_wrap=True)


def _splits_table(texts: RouterTexts) -> TextTable:
    table = TextTable(title="The router's texts", title_justify="left")
    table.add_column("label")
    for split, _ in splits_of(texts):
        table.add_column(split, justify="right")
    for label, counts in split_counts(texts).items():
        table.add_row(label, *map(_count, counts.values()))
    for name, group in texts.foreign.items():
        table.add_row(f"{name} (foreign)", NONE, NONE, _count(len(group)))
    return table


def _sources_table(report: DataReport) -> TextTable:
    table = TextTable(title="What became of the records", title_justify="left")
    table.add_column("source")
    table.add_column("records", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("left out")
    for source in report.sources:
        left_out = [f"{source.dropped[reason]:,} {reason}" for reason in REASONS if source.dropped.get(reason)]
        table.add_row(source.name, _count(source.num_records), _count(source.num_kept), ", ".join(left_out) or NONE)
    return table


def _count(number: int) -> str:
    return f"{number:,}"

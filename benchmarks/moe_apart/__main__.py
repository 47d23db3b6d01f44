"""Experts trained apart and then mixed, against dense models, on real text: which wins?

    python -m benchmarks.moe_apart --data DATA [--work FOLDER] [--threads 2] [--small]

DATA is a folder with the public data sets (`texts.py` names the files of the three domains). A small GPT-Neo is
trained on all texts (the anchor), one expert for each domain apart from it, and they are mixed and finetuned; dense
models learn from as many tokens. What FOLDER holds already is not computed again. Figures are bits per byte of
held-out texts that decided nothing; learning rates were chosen on other held-out texts.

Exits with 1 when a mixture is not what its certificate says (an expert in it, alone, is its own checkpoint), or when
a row is missing. Which side wins is printed.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import transformers

from benchmarks.machine import machine_line
from benchmarks.moe_apart.comparing import BOUNDS, DENSE, EQUAL_TRAINING, LABELS, Comparison
from benchmarks.moe_apart.sizes import FULL, SMALL, Size
from benchmarks.moe_apart.texts import FILES, Texts, byte_counts, expert_texts, read_texts, write_experiment
from benchmarks.moe_apart.trainings import Trainings
from benchmarks.moe_apart.verdict import ByText, Row, difference_table, missing_rows, sentence, table
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.moe.verify import verify


def main(given: list[str] | None = None) -> int:
    """Print tables and verdict; return the exit status."""
    arguments = _arguments(given)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(machine_line("torch", "transformers"))
    size = SMALL if arguments.small else FULL
    with tempfile.TemporaryDirectory(prefix="moe-apart-") as temporary:
        return compare(arguments.data, arguments.work or Path(temporary), size, num_threads=arguments.threads)


def compare(data: Path, work: Path, size: Size, *, num_threads: int) -> int:
    """Train, measure and print all; return the exit status."""
    folder = folder_of(work, data, size)
    write_experiment(folder, data)
    experts = expert_texts(data, size.max_texts)
    texts = read_texts(folder, experts)
    print_texts(texts)
    trainings = Trainings(folder, experts, texts, size, num_threads=num_threads, told=_told)
    comparison = Comparison(folder, texts, size, trainings, num_threads=num_threads, told=_told)
    rows = list(comparison.rows())
    num_bytes = byte_counts(texts.measured)
    print("\n".join(["", *table(rows, num_bytes), ""]))
    missing = [f"no whole row: {label}" for label in missing_rows(rows, LABELS, num_bytes)]
    broken = [*missing, *broken_claims(comparison.mixtures)]
    print("\n".join([*broken, f"{len(broken)} claims failed"]))
    if not missing:
        print_verdict(comparison.main_mixture(rows), {row.label: row for row in rows}, num_bytes)
    return 1 if broken else 0


def print_verdict(mixture: Row, rows: Mapping[str, Row], num_bytes: ByText) -> None:
    """Print the mixture's differences to the dense models and to perfect routing, and last the plain sentence."""
    others = [rows[label] for label in (*DENSE, *BOUNDS)]
    print("\n".join(["", *difference_table(mixture, others, num_bytes), ""]))
    print(sentence(mixture, rows[EQUAL_TRAINING], num_bytes))


def folder_of(work: Path, data: Path, size: Size) -> Path:
    """The folder that is named by what decides all weights, so that another comparison is never mixed with this one."""
    files = {name: file_sha256(data / file) for name, file in FILES.items()}
    return work.resolve() / fingerprint({"size": asdict(size), "files": files})[:12]


def broken_claims(mixtures: Sequence[Path]) -> Iterator[str]:
    """Yield what does not hold of the mixtures' certificates: each expert alone is held against its own checkpoint."""
    for mixture in mixtures:
        for finding in verify(mixture):
            if not finding.holds:
                yield f"{mixture.name}: {finding.what}: {finding.detail}"


def print_texts(texts: Texts) -> None:
    """Print how many texts and bytes each domain has for what."""
    for what in ("train", "choosing", "measured"):
        counts = byte_counts(getattr(texts, what))
        told = ", ".join(f"{name} {len(own):,} texts ({sum(own) / 1e6:.2f} MB)" for name, own in counts.items())
        print(f"{what}: {told}", flush=True)


def _told(line: str) -> None:
    print(line, flush=True)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe_apart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--work", type=Path, help="keeps checkpoints and measurements; default: nothing is kept")
    parser.add_argument("--threads", type=int, default=2, help="threads of a training")
    parser.add_argument("--small", action="store_true", help="shows that it works, in a minute")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())

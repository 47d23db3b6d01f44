"""Hold `moe-ray moe upcycle` beside mergekit-moe: Llama- and Qwen2-class models, random bfloat16, to four experts.

    python -m benchmarks.moe_mergekit --env ENV [--work FOLDER] [--families llama qwen2] [--rounds 3] [--small]

ENV is mergekit's own virtual environment, made where it is not there. Dense models of about 550 million parameters
(--small: 32 million) are written to FOLDER and removed at the end. Each side runs as a process of its own, in turn:
mergekit-moe, moe-ray's conversion alone (mergekit-moe tests nothing), a plain copy of mergekit-moe's result, and in
the first round alone moe-ray with its tests, which load both models in float32. Then transformers alone loads each
result in float32. Memory is the resident memory of all processes of a command at their peaks; pages of files that are
mapped count.

Exits with 1 when moe-ray's result is not exact, does not load, or has names that vLLM's loaders do not map. Whether
the targets for time and memory are met is printed.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.machine import machine_line
from benchmarks.moe_mergekit import models, sides
from benchmarks.moe_mergekit.names import unmapped
from benchmarks.virtual_environment import installed_versions, make_python
from moe_ray.checkpoints.tensors import TensorReader

MERGEKIT_VERSION = "0.1.5"
UNTESTED = (sides.MERGEKIT, sides.OURS, sides.COPY)
SIDES = (*UNTESTED, sides.OURS_TESTED)
TARGET_MEMORY, TARGET_WALL = 0.3, 0.5
MAX_DIFFERENCE = 1e-5
MIN_FREE_BYTES = 16 * 10**9
MIB = 1 << 20


def main(given: list[str] | None = None) -> int:
    arguments = _arguments(given)
    _require_space(arguments.work, small=arguments.small)
    python = make_python(arguments.env.resolve(), "mergekit", MERGEKIT_VERSION)
    print(machine_line("torch", "transformers"))
    named = installed_versions(python, "mergekit", "torch", "transformers").items()
    print("mergekit's environment: " + ", ".join(f"{name} {version}" for name, version in named))
    size = models.SMALL if arguments.small else models.FULL
    holds = []
    for family in arguments.families:
        with tempfile.TemporaryDirectory(prefix="mergekit-", dir=arguments.work) as folder:
            holds.append(compare(family, size, Path(folder), python, arguments.rounds))
    return 0 if all(holds) else 1


def compare(family: str, size: models.Size, folder: Path, python: Path, rounds: int) -> bool:
    """Print one family's table; return whether moe-ray's result is exact, loads, and is named as it should be."""
    dense = folder / "dense"
    num_parameters = models.make_dense(dense, family, size)
    print(f"\n{family}, {num_parameters / 1e6:.0f}M parameters, to {sides.NUM_EXPERTS} experts; medians of {rounds}")
    used: dict[str, list[sides.Used]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number == 0 else UNTESTED:
            out = folder / side
            shutil.rmtree(out, ignore_errors=True)
            used[side].append(sides.measure(sides.command_of(side, python, dense, family, out), folder / "log"))
    print_used(used)
    return print_results(folder, dense)


def print_used(used: Mapping[str, list[sides.Used]]) -> None:
    """Print time and memory of each side, their ratios to mergekit-moe's, and whether the targets are met."""
    wall = {side: statistics.median(one.wall_s for one in runs) for side, runs in used.items()}
    peak = {side: statistics.median(one.peak_memory_bytes for one in runs) for side, runs in used.items()}
    print(f"{'':22}  {'wall s':>7}  {'range':>13}  {'ratio':>5}  {'peak MiB':>8}  {'ratio':>5}")
    for side, runs in used.items():
        walls = [one.wall_s for one in runs]
        ratio = wall[side] / wall[sides.MERGEKIT]
        print(
            f"{side:22}  {wall[side]:7.2f}  {min(walls):6.2f}-{max(walls):6.2f}  {ratio:5.2f}"
            f"  {peak[side] / MIB:8.0f}  {peak[side] / peak[sides.MERGEKIT]:5.2f}"
        )
    for what, found, target in (("peak memory", peak, TARGET_MEMORY), ("time", wall, TARGET_WALL)):
        ratio = found[sides.OURS] / found[sides.MERGEKIT]
        print(f"{what}: {ratio:.2f} x, target at most {target}: {'met' if ratio <= target else 'MISSED'}")


def print_results(folder: Path, dense: Path) -> bool:
    """Print what transformers and vLLM's loaders would make of each result."""
    print(
        f"{'':22}  {'class':10}  {'GB':>5}  {'loads':5}  {'tensors without a match':>23}  {'logits':>8}  names for vLLM"
    )
    holds = True
    for side in (sides.MERGEKIT, sides.OURS, sides.OURS_TESTED):
        out = folder / side
        loaded = sides.load_with_transformers(dense, out)
        model_type = json.loads((out / "config.json").read_text(encoding="utf-8"))["model_type"]
        strange = unmapped(model_type, TensorReader(out).names())
        num_bytes = sum(path.stat().st_size for path in out.glob("*.safetensors"))
        names = f"no, {len(strange)} such as {strange[0]}" if strange else "yes"
        print(
            f"{side:22}  {model_type:10}  {num_bytes / 1e9:5.2f}  {'no' if loaded.error else 'yes':5}"
            f"  {loaded.num_unmatched:23}  {loaded.max_difference:8.1e}  {names}{loaded.error or ''}"
        )
        is_good = not loaded.error and loaded.relative_difference <= MAX_DIFFERENCE
        holds &= side == sides.MERGEKIT or (is_good and not strange and not loaded.num_unmatched)
    print(
        f"moe-ray's exact within {MAX_DIFFERENCE}, loaded and named: {'holds' if holds else 'DOES NOT HOLD'}",
        flush=True,
    )
    return holds


def _require_space(folder: Path, *, small: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if not small and free < MIN_FREE_BYTES:
        raise SystemExit(f"{folder} has {free / 1e9:.1f} GB free, and {MIN_FREE_BYTES / 1e9:.0f} GB are needed")


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe_mergekit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--env", type=Path, required=True, help="mergekit's environment")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="for models and results")
    parser.add_argument("--families", nargs="+", choices=models.FAMILIES, default=models.FAMILIES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="shows that it works")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())

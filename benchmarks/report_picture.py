"""The pictures of a report in the README: the top of the page as a browser draws it, light and dark.

    python -m benchmarks.report_picture [--out docs/images] [--run RESULTS_DIR]

Without a run, a synthetic one is drawn, and says so on its face.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from moe_ray.report.write import write_report
from moe_ray.scoring.score import write_scores
from tests.support.chromium import opened_browser
from tests.support.synthetic_routes import route
from tests.support.synthetic_run import ALL_METRICS, synthetic_run

WIDTH_PX = 1400
NUM_MODELS, NUM_ANSWERS = 4, 1200
READY = "document.getElementById('browser')?.dataset.ready"
END_OF_FIRST_PLOTS = "document.querySelector('.plots').getBoundingClientRect().bottom + scrollY + 24"


def synthetic_report(folder: Path) -> Path:
    """Write a synthetic run of three experts behind a router and a baseline, finished, with a few failures."""
    run, scores = synthetic_run(folder, num_models=NUM_MODELS, num_answers=NUM_ANSWERS)
    route(run)
    manifest = run.manifest()
    sessions = [session.model_copy(update={"status": "complete"}) for session in manifest.sessions]
    run.write_manifest(manifest.model_copy(update={"sessions": sessions, "given_up": [], "sandbox": None}))
    write_scores(run.scores_path, scores, ALL_METRICS)
    write_report(run)
    return run.report_path


def take(page: Path, out: Path) -> None:
    """Write report.png and report-dark.png: from the top of the page to the end of its first plots."""
    out.mkdir(parents=True, exist_ok=True)
    with opened_browser() as tab:
        for name, dark in (("report.png", False), ("report-dark.png", True)):
            tab.look_as(WIDTH_PX, dark=dark)
            tab.open(page, until=READY)
            picture = Image.open(io.BytesIO(tab.picture(top=0, height=tab.evaluate(END_OF_FIRST_PLOTS))))
            picture.convert("RGB").save(out / name, optimize=True)
            print(f"{out / name}: {picture.width} x {picture.height}, {(out / name).stat().st_size / 1024:.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pictures of a report.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--run", type=Path, help="a run directory with a report; a synthetic run by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-picture-") as name:
        page = arguments.run / "report.html" if arguments.run else synthetic_report(Path(name))
        take(page, arguments.out)


if __name__ == "__main__":
    main()

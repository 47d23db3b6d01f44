"""What `ray job submit --working-dir . -- python jobs/evaluate.py FILE [options]` runs.

It is `moe-ray evaluate FILE [options]` on the cluster that the job is in. Results go below an absolute --results-dir
that outlives the job's own copy of the working directory.
"""

import sys
from pathlib import Path

from moe_ray.entry import main

if __name__ == "__main__":
    # Python puts a script's folder first, and there `import evaluate`, the metrics library, would find this file.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    # First, so that a --set of the caller's wins.
    sys.argv[1:1] = ["evaluate", "--set", "runtime.address=auto"]
    main()

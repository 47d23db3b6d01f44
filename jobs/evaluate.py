"""What `ray job submit --working-dir . -- python jobs/evaluate.py FILE [options]` runs.

It is `moe-ray evaluate FILE [options]` on the cluster that the job is in. Results go below an absolute --results-dir
that outlives the job's own copy of the working directory.
"""

import sys

from moe_ray.cli.main import run

if __name__ == "__main__":
    # First, so that a --set of the caller's wins.
    sys.argv[1:1] = ["evaluate", "--set", "runtime.address=auto"]
    run()

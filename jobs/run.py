"""What `ray job submit --working-dir . -- python jobs/run.py COMMAND [options]` runs: any command of `moe-ray`.

Ray sets RAY_ADDRESS in a job, so that commands join the cluster that the job is in unless the experiment's
`runtime.address` names another. Outputs go to absolute folders that outlive the job's copy of the working directory.
"""

import sys
from pathlib import Path

from moe_ray.entry import main

if __name__ == "__main__":
    # Python puts a script's folder first, and there `import evaluate`, the metrics library, would find evaluate.py.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    main()

"""What `ray job submit --working-dir . -- python jobs/moe.py COMMAND [options]` runs.

It is `moe-ray moe COMMAND [options]`; `pretrain` and `finetune` train on the nodes of the cluster that the job is in.
Folders given with --out, and models, are absolute paths on a disk that all nodes share.
"""

import sys
from pathlib import Path

from moe_ray.entry import main

if __name__ == "__main__":
    # Python puts a script's folder first, and there `import evaluate`, the metrics library, would find evaluate.py.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    sys.argv[1:1] = ["moe"]
    main()

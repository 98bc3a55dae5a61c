"""Compare experiments over seeds: ``python run_seeds.py --expid A B --seeds 1 2 3 --name a_vs_b``."""

import sys
from pathlib import Path

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["seeds", "--out", str(Path(__file__).resolve().parent / "results"), *sys.argv[1:]])

"""Run a study: ``python run_ablation.py --study fusion --dataset LFM2k --seeds 1 2 3``."""

import sys
from pathlib import Path

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["study", "--out", str(Path(__file__).resolve().parent / "results"), *sys.argv[1:]])

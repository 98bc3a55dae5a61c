"""Run one experiment: ``python run_expid.py --expid Transformer_DCNv2_MMCTR``."""

import sys
from pathlib import Path

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["run", "--csv_dir", str(Path(__file__).resolve().parent), *sys.argv[1:]])

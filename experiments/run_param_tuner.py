"""Run a sweep: ``python run_param_tuner.py --config tuner_config/Transformer_DCNv2_demo.yaml --gpu 0 1``."""

import sys
from pathlib import Path

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["tune", "--csv_dir", str(Path(__file__).resolve().parent), *sys.argv[1:]])

"""Run one experiment: ``python run_expid.py --expid Transformer_DCNv2_MMCTR``."""

from pathlib import Path

from fuxictr_mm.run.run import main

if __name__ == "__main__":
    main(csv_dir=Path(__file__).resolve().parent)

"""Score a file with a trained experiment: ``python predict.py --expid Transformer_DCNv2_MMCTR --split test``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])

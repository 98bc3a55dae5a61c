"""See what a trained model looks at: ``python explain.py --expid Transformer_DCNv2_MMCTR --split test --sample 4``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["explain", *sys.argv[1:]])

"""Look a dataset over before training on it: ``python inspect_data.py --dataset MMCTR_demo``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["inspect", *sys.argv[1:]])

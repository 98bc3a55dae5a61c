"""Generate MMCTR_demo, or a larger one: ``python make_demo.py --rows 3600000 --items 91717 ...``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

"""Turn folders of results into one HTML page: ``python report.py [FOLDER ...]``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])

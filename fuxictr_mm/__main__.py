"""``python -m fuxictr_mm VERB``."""

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main()

"""Export a trained experiment: ``python export_model.py --expid Transformer_DCNv2_demo --to model.onnx``."""

import sys

from fuxictr_mm.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])

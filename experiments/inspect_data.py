"""Look a dataset over before training on it: ``python inspect_data.py --dataset MMCTR_demo``."""

import argparse
import json
from pathlib import Path

from fuxictr_mm.config.experiment import REPOSITORY, load_dataset, user_errors
from fuxictr_mm.demo.generator import ensure_demo
from fuxictr_mm.files import atomic_write
from fuxictr_mm.inspect.inspection import inspect_dataset


def main() -> None:
    """Print the findings, and write them as JSON and as a plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="dataset id, e.g. MMCTR_demo (generated if it is not there)")
    parser.add_argument("--config", help="directory with dataset_config.yaml or dataset_config/ (default: ours)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "inspection", help="folder for the files")
    args = parser.parse_args()
    with user_errors():
        params = load_dataset(args.dataset, args.config)
        if args.dataset == "MMCTR_demo":
            ensure_demo(Path(params["train_data"]).parent)
        findings = inspect_dataset(params)
        print(findings.to_table(), flush=True)
        record, picture = args.out / f"{args.dataset}.json", args.out / f"{args.dataset}.png"
        with atomic_write(record) as temporary:
            temporary.write_text(json.dumps(findings.to_dict(), indent=2) + "\n", encoding="utf-8")
        findings.plot(picture)
        print(f"\nwritten: {record} and {picture}")


if __name__ == "__main__":
    main()

"""Generate MMCTR_demo, or a larger one: ``python make_demo.py --rows 3600000 --items 91717 ...``."""

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fuxictr_mm.config.experiment import REPOSITORY, user_errors
from fuxictr_mm.demo.generator import DemoSettings, best_auc, generate_demo


def main(argv: list[str] | None = None) -> None:
    """Command line: one argument per field of :class:`~fuxictr_mm.demo.generator.DemoSettings`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "MMCTR_demo", help="folder to write")
    for field in fields(DemoSettings):
        if field.name == "leaky_levels":
            parser.add_argument("--leaky_levels", action="store_true", help="rows show the clicked item's levels")
        else:
            kind = float if field.name == "history_median" else int
            parser.add_argument(f"--{field.name}", type=kind, default=field.default, help="see DemoSettings")
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    with user_errors():
        settings = DemoSettings(**arguments)
        generate_demo(out, settings)
        print(f"{out}\n{'split':<7}{'rows':>11}{'label share':>13}{'cold share':>12}{'best AUC':>10}")
        train_items = pq.read_table(out / "train.parquet", columns=["item_id"])["item_id"].unique().to_numpy()
        for split in settings.splits:
            table = pq.read_table(out / f"{split}.parquet", columns=["item_id", "label"])
            cold = 1 - np.isin(table["item_id"].to_numpy(), train_items).mean()
            label = table["label"].to_numpy().mean()
            best = best_auc(out / f"{split}.parquet")
            print(f"{split:<7}{len(table):>11,}{label:>13.4f}{cold:>12.4f}{best:>10.4f}")


if __name__ == "__main__":
    main()

"""Write item files in which a share of the vectors is missing, for ``studies/missing_vectors.yaml``.

``python hide_vectors.py --dataset LFM2k_cold`` writes ``data/hidden/LFM2k_cold_10.parquet`` (10 % of the items without
a vector, each modality for itself), ``_30``, ``_50`` and ``_70``. An item that misses a modality at one share misses
it at every larger one.
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuxictr_mm.cli import user_errors
from fuxictr_mm.config.places import home
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.config.yaml_files import load_dataset
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.derive.derivation import derivations_of
from fuxictr_mm.features.sources import Sources
from fuxictr_mm.files import atomic_write
from fuxictr_mm.parquet import open_parquet

SHARES = (0.1, 0.3, 0.5, 0.7)


def hide(table: pa.Table, modalities: list[str], share: float, seed: int) -> pa.Table:
    """Return the item table with the vectors of a ``share`` of the rows null, for each modality for itself."""
    for name in modalities:
        # One order per modality for all shares: what is missing at 10 % is missing at 30 %.
        order = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(len(table))
        is_hidden = np.zeros(len(table), bool)
        is_hidden[order[: round(share * len(table))]] = True
        at = table.schema.get_field_index(name)
        vectors = table.column(at).combine_chunks()
        # By position: a mask over the values would not fit every list type of every pyarrow.
        index = pa.array(np.arange(len(table)), mask=is_hidden)
        table = table.set_column(at, name, vectors.take(index))
    return table


def main(argv: list[str] | None = None) -> None:
    """Command line: ``--dataset``, ``--shares``, ``--seed``, ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="dataset_id of dataset_config/")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="shares of items without a vector")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=home() / "data" / "hidden", help="folder to write")
    args = parser.parse_args(argv)
    with user_errors():
        for share in args.shares:
            if not 0 <= share < 1:
                raise ConfigError(f"--shares {share}: a share of the items is at least 0 and less than 1.")
        params = load_dataset(args.dataset)
        schema = DatasetSchema.from_params(params)
        derivations = [one for column in schema.item_columns for one in derivations_of(column)]
        modalities = sorted({name for one in derivations for name in one.modalities})
        files = ("item_info", "item_feature", "modality_data")
        sources = Sources.from_paths(schema.item_col, *(params.get(key) for key in files))
        paths = sorted({sources.file_of_modality(name) for name in modalities})
        if len(paths) != 1 or paths[0].suffix != ".parquet":
            raise ConfigError(
                f"--dataset {args.dataset}: its vectors are in {[str(path) for path in paths]}; one parquet file of "
                "items with all modalities is expected."
            )
        source = open_parquet(paths[0])
        table = source.read(source.schema_arrow.names)
        args.out.mkdir(parents=True, exist_ok=True)
        for share in args.shares:
            file = args.out / f"{args.dataset}_{round(100 * share)}.parquet"
            with atomic_write(file) as temporary:
                pq.write_table(hide(table, modalities, share, args.seed), temporary)
            print(f"{file}: {round(share * len(table)):,} of {len(table):,} items without {', '.join(modalities)}")


if __name__ == "__main__":
    main()

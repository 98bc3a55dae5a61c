"""From your log and your items to a data set that trains, with the commands that come next.

Arguments may also stand in a YAML file, under the same names: ``--config prepare.yaml``; what is given twice is taken
from the command line.
"""

import inspect
from pathlib import Path
from typing import Any

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.config.yaml_files import read_yaml
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.prepare.prepare import prepare

__all__ = ["main"]

EXAMPLE = "--interactions clicks.csv --items items.csv --user user --item item --time time --negatives 4 --out my_data"
# Argument of the command -> that of the function, where they are called differently.
NAMES = {"negatives": "n_negatives"}


def main(argv: list[str] | None = None) -> None:
    """Carry out the verb ``prepare``."""
    parser = verb_parser("prepare", __doc__, EXAMPLE)
    parser.add_argument("--config", type=Path, help="YAML file of these arguments")
    parser.add_argument("--interactions", nargs="+", help="the log: csv, tsv, RecBole's .inter, parquet")
    parser.add_argument("--items", nargs="+", help="the item table; its ids are called as in the log")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--name", help="dataset id (default: that of the folder)")
    for name, what in (("user", "users"), ("item", "items"), ("time", "times"), ("label", "0 and 1"),
                       ("rating", "ratings"), ("split_column", "train, valid, test")):  # fmt: skip
        parser.add_argument(f"--{name}", metavar="COLUMN", help=f"column of {what}")
    parser.add_argument("--positive", type=float, help="ratings from here on are clicks (default: 4)")
    parser.add_argument("--split", help="time, last, column or cold (default: time)")
    parser.add_argument("--valid_share", type=float, help="of the rows by time, or of the items (default: 0.1)")
    parser.add_argument("--test_share", type=float, help="the same (default: 0.1)")
    parser.add_argument("--last", type=int, help="clicks of each user in valid, and in test (default: 1)")
    parser.add_argument("--sessions", type=float, metavar="GAP", help="histories end at gaps longer than this")
    parser.add_argument("--max_len", type=int, help="most items of a history (default: 50)")
    parser.add_argument("--negatives", type=int, help="items per click that its user has never clicked (default: 0)")
    parser.add_argument("--power", type=float, help="of popularity, by which they are drawn (default: 0.75)")
    parser.add_argument("--popularity", action="store_true", default=None, help="add deciles of clicks in train")
    parser.add_argument("--drop", nargs="+", metavar="COLUMN", help="columns of the log to leave out")
    parser.add_argument("--names", nargs="+", metavar="COLUMN", help="columns of a log without a header")
    parser.add_argument("--separator", help="of text files (default: as the first line shows)")
    parser.add_argument("--vectors", nargs="+", metavar="NAME=FILE.npy", help="a row per item, in the order of --items")
    parser.add_argument("--seed", type=int, help="of all that is drawn (default: 1)")
    args = vars(parser.parse_args(argv))
    given = {**_from_yaml(args.pop("config")), **{name: value for name, value in args.items() if value is not None}}
    if isinstance(given.get("vectors"), list):
        given["vectors"] = dict(_pair(text) for text in given["vectors"])
    given = {NAMES.get(name, name): value for name, value in given.items()}
    for name in ("interactions", "out", "user", "item"):
        if name not in given:
            raise ConfigError(f"prepare needs --{name}.")
    print(prepare(given.pop("interactions"), given.pop("out"), **given).to_text())


def _from_yaml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    content = read_yaml(file)
    known = {*inspect.signature(prepare).parameters, *NAMES}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping of arguments is expected.")
    for key in content:
        if key not in known:
            raise ConfigError(f"{file}: key {key!r} is no argument of prepare; known: {', '.join(sorted(known))}.")
    paths = {key: content[key] for key in ("interactions", "items", "out") if key in content}
    for key, value in paths.items():
        inside = [str(file.parent / one) for one in (value if isinstance(value, list) else [value])]
        content[key] = inside if isinstance(value, list) else inside[0]
    return content


def _pair(text: str) -> tuple[str, str]:
    name, sign, file = text.partition("=")
    if not sign:
        raise ConfigError(f"--vectors {text}: NAME=FILE.npy is expected.")
    return name, file

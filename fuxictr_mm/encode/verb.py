"""From titles and pictures to vectors: an item table with a column of them per --text and --image.

SOURCE is a column or several (--text title,overview), a column of paths, or a path with columns in it
(--image 'posters/{movie_id}.jpg'). MODEL is sentence-transformers/NAME, timm/NAME, open_clip/NAME[:WEIGHTS], a local
folder, or module:function. Repeat the command to go on after an interruption; for new items add --append.
"""

from pathlib import Path

from fuxictr_mm.arguments import verb_parser
from fuxictr_mm.encode.encode import encode
from fuxictr_mm.encode.inputs import Task

__all__ = ["main"]

EXAMPLE = "--items items.csv --item item --text title=sentence-transformers/all-MiniLM-L6-v2 --out vectors"


def main(argv: list[str] | None = None) -> None:
    """Carry out the verb ``encode``."""
    parser = verb_parser("encode", __doc__, EXAMPLE)
    parser.add_argument("--items", nargs="+", required=True, help="the item table: csv, tsv, RecBole's .item, parquet")
    parser.add_argument("--item", required=True, metavar="COLUMN", help="its column of ids")
    parser.add_argument("--text", action="append", default=[], metavar="[NAME:]SOURCE=MODEL", help="texts to encode")
    parser.add_argument(
        "--image", action="append", default=[], metavar="[NAME:]SOURCE=MODEL", help="pictures to encode"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--batch_size", type=int, default=64, help="inputs per call of a model (default: %(default)s)")
    parser.add_argument(
        "--append", action="store_true", help="keep the items that --out has, and add those of other ids"
    )
    args = parser.parse_args(argv)
    tasks = [Task.parse(text, "text") for text in args.text] + [Task.parse(text, "image") for text in args.image]
    made = encode(args.items, args.out, tasks, item=args.item, batch_size=args.batch_size, append=args.append)
    print(made.to_text())
    print(f"next:\n  fuxictr-mm prepare --items {made.path} --item {args.item} ...")

"""Score a file with a trained experiment: ``python predict.py --expid Transformer_DCNv2_MMCTR --split test``."""

import argparse
from pathlib import Path

from fuxictr_mm.config.experiment import user_errors
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.run.results import checkpoint_file, saved_params
from fuxictr_mm.run.run import resolve_experiment, restore_experiment
from fuxictr_mm.serve.prediction import predict_file

SPLITS = ("train", "valid", "test")


def main(argv: list[str] | None = None) -> None:
    """Write one score per row, in the order of the file; say how many, how fast, and where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expid", default="Transformer_DCNv2_MMCTR", help="experiment id (default: %(default)s)")
    parser.add_argument(
        "--split", default="test", help="train, valid, test, or any parquet file of the same columns (default: test)"
    )
    parser.add_argument("--config", help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--dataset", help="dataset id, instead of the experiment's own")
    parser.add_argument("--weights", type=Path, help="weights from elsewhere: .model, .pth or .safetensors")
    parser.add_argument(
        "--out", type=Path, help=".parquet (default, beside the checkpoint), or ID,Task1 as .csv or in a .zip"
    )
    parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")
    parser.add_argument("--batch_size", type=int, help="rows per forward pass (default: the experiment's)")
    parser.add_argument("--item_feature", type=Path, help="items that training did not know, laid out as item_feature")
    parser.add_argument("--item_info", type=Path, help="the same items, laid out as item_info")
    parser.add_argument(
        "--metrics",
        action="store_true",
        help="the experiment's metrics as well, if the file has labels; keeps one score and label per row in memory",
    )
    args = parser.parse_args(argv)
    with user_errors():
        params = resolve_experiment(args.expid, args.config, args.dataset)
        params["gpu"] = args.gpu
        data_path = Path(args.split)
        if args.split in SPLITS:
            if not params.get(f"{args.split}_data"):
                raise ConfigError(f"--split {args.split}: dataset {params['dataset_id']} has no '{args.split}_data'.")
            data_path = Path(params[f"{args.split}_data"])
        checkpoint = checkpoint_file(params)
        model, feature_map = restore_experiment(params, args.weights)
        # As the model was trained, whatever the YAML says by now.
        params |= {} if args.weights else saved_params(checkpoint) or {}
        given = {"item_feature": args.item_feature, "item_info": args.item_info}
        prediction = predict_file(
            model,
            feature_map,
            data_path,
            args.out or checkpoint.with_name(f"{params['model_id']}.{data_path.stem}.predictions.parquet"),
            batch_size=params["batch_size"] if args.batch_size is None else args.batch_size,
            new_items={name: path for name, path in given.items() if path is not None},
            metrics=params["metrics"] if args.metrics else (),
            **{key: params[key] for key in ("max_len", "trim", "item_col", "history_col") if key in params},
        )
        print(prediction.to_text())


if __name__ == "__main__":
    main()

"""Export a trained experiment: ``python export_model.py --expid Transformer_DCNv2_demo --to model.onnx``."""

import argparse
from pathlib import Path

from fuxictr_mm.config.experiment import user_errors
from fuxictr_mm.files import file_fingerprint
from fuxictr_mm.run.run import resolve_experiment, restore_experiment
from fuxictr_mm.serve.export import DEFAULT_OPSET, check_target, export_onnx, export_safetensors


def main(argv: list[str] | None = None) -> None:
    """Write the weights (``.safetensors``) or the network (``.onnx``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expid", required=True, help="a trained experiment id")
    parser.add_argument("--to", type=Path, required=True, help="file to write: *.safetensors or *.onnx")
    parser.add_argument("--config", help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--dataset", help="dataset id, instead of the experiment's own")
    parser.add_argument("--weights", type=Path, help="file of weights, instead of the experiment's best ones")
    parser.add_argument("--opset", type=int, help=f"ONNX operator set (default: {DEFAULT_OPSET})")
    args = parser.parse_args(argv)
    with user_errors():
        check_target(args.to, args.opset)
        params = resolve_experiment(args.expid, args.config, args.dataset)
        params["gpu"] = -1
        model, _ = restore_experiment(params, args.weights)
        about = {
            "expid": params["model_id"],
            "dataset_id": params["dataset_id"],
            "weights": file_fingerprint(args.weights or model.checkpoint),
        }
        if args.to.suffix == ".onnx":
            print(export_onnx(model, args.to, about, args.opset or DEFAULT_OPSET).to_table())
        else:
            export_safetensors(model, args.to, about)
        print(f"written: {args.to} ({args.to.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()

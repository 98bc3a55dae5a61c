"""One command with verbs: ``fuxictr-mm VERB``; ``python -m fuxictr_mm`` and ``experiments/*.py`` call the same.

This module is imported before torch is. By default OpenMP's threads spin while they wait, and then two processes take
the same cores from each other for whole time slices; threads that never spin take twice as long on an idle machine. A
thousand spins cost little in either case (``experiments/benchmarks/busy.py``).
"""

import argparse
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when libgomp is loaded, with torch

from fuxictr_mm.arguments import COMMAND, verb_parser
from fuxictr_mm.errors import ConfigError, is_told, needs, sentence

__all__ = ["main", "user_errors"]

SPLITS = ("train", "valid", "test")


@contextmanager
def user_errors(command_to_resume: str | None = None) -> Iterator[None]:
    """Turn what a user can cause into one sentence on stderr: exit status 2, or 130 for Ctrl-C and SIGTERM.

    Args:
        command_to_resume: named after an interruption.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except Exception as err:
        if not is_told(err):
            raise
        with suppress(OSError):  # the log's disk may be what is full
            if logging.root.handlers:  # a sweep's user looks into the log of the run
                logging.error(sentence(err))
        print(f"error: {sentence(err)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as err:
        how = f"; continue with: {command_to_resume}" if command_to_resume else ""
        print(f"\ninterrupted: {err or 'no training was going on'}{how}", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: list[str] | None = None) -> None:
    """Run one verb.

    Args:
        argv: the verb and its arguments; default: those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(COMMAND, description=__doc__.splitlines()[0], epilog=_verb_list())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("verb", choices=VERBS, metavar="VERB")
    verb = parser.parse_args(argv[:1]).verb
    resume = None
    if verb in RESUMABLE:
        more = [argument for argument in RESUMABLE[verb] if argument not in sys.argv]
        resume = f"python {shlex.join([*sys.argv, *more])}"
    with user_errors(resume):
        VERBS[verb](argv[1:])


def run(argv: list[str]) -> None:
    """Run one experiment, with FuxiCTR's arguments and outputs."""
    parser = verb_parser("run", run.__doc__, "--expid Transformer_DCNv2_MMCTR", "--expid mine --config my_config")
    _add_experiment(parser, expid="Transformer_DCNv2_MMCTR", gpu=True)
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run; one that has ended is not repeated"
    )
    parser.add_argument("--weights", default=None, help="begin with these weights (.model, .pth, .safetensors)")
    parser.add_argument(
        "--csv_dir", type=Path, default=Path(), help="folder of FuxiCTR's results file (default: the current one)"
    )
    args = parser.parse_args(argv)
    from fuxictr_mm.run import resolve_experiment, run_experiment

    changes: dict[str, Any] = {"resume": True} if args.resume else {}
    if args.weights is not None:
        changes["weights"] = str(Path(args.weights).resolve())
    experiment = resolve_experiment(args.expid, args.config, args.dataset, gpu=args.gpu, **changes)
    name = Path(args.config).name.removesuffix(".yaml") if args.config else "config"
    result = run_experiment(experiment, csv_file=args.csv_dir / f"{name}.csv")
    print("\n" + result.to_table())
    print(f"checkpoint: {result.checkpoint}\nlog:        {result.checkpoint.with_suffix('.log')}")
    print(f"results:    {(args.csv_dir / name).resolve()}.csv")
    if result.curve and find_spec("matplotlib"):
        from fuxictr_mm.study.plots import plot_training

        picture = result.checkpoint.with_suffix(".png")
        plot_training(result, picture)
        print(f"curve:      {picture}")


def predict(argv: list[str]) -> None:
    """Score a file with a trained experiment: one score per row, in the order of the file."""
    parser = verb_parser("predict", predict.__doc__, "--expid Transformer_DCNv2_MMCTR --split test --metrics")
    _add_experiment(parser, expid="Transformer_DCNv2_MMCTR", gpu=True)
    parser.add_argument(
        "--split", default="test", help="train, valid, test, or any parquet file of the same columns (default: test)"
    )
    parser.add_argument("--weights", type=Path, help="weights from elsewhere: .model, .pth or .safetensors")
    parser.add_argument(
        "--out", type=Path, help=".parquet (default, beside the checkpoint), or ID,Task1 as .csv or in a .zip"
    )
    parser.add_argument("--batch_size", type=int, help="rows per forward pass (default: the experiment's)")
    parser.add_argument("--item_feature", type=Path, help="items that training did not know, laid out as item_feature")
    parser.add_argument("--item_info", type=Path, help="the same items, laid out as item_info")
    parser.add_argument(
        "--metrics",
        action="store_true",
        help="the experiment's metrics as well, if the file has labels; keeps one score and label per row in memory",
    )
    args = parser.parse_args(argv)
    from fuxictr_mm.run import Trained, resolve_experiment
    from fuxictr_mm.serve.prediction import predict_file

    experiment = resolve_experiment(args.expid, args.config, args.dataset, gpu=args.gpu)
    data_path = Path(args.split)
    if args.split in SPLITS:
        if not experiment.get(f"{args.split}_data"):
            raise ConfigError(f"--split {args.split}: dataset {experiment.dataset_id} has no '{args.split}_data'.")
        data_path = Path(experiment[f"{args.split}_data"])
    trained = Trained.open(experiment, args.weights)
    given = {"item_feature": args.item_feature, "item_info": args.item_info}
    prediction = predict_file(
        trained,
        data_path,
        args.out or experiment.file(f".{data_path.stem}.predictions.parquet"),
        batch_size=trained.params["batch_size"] if args.batch_size is None else args.batch_size,
        new_items={name: path for name, path in given.items() if path is not None},
        metrics=trained.params["metrics"] if args.metrics else (),
    )
    print(prediction.to_text())


def export(argv: list[str]) -> None:
    """Write a trained experiment's weights (.safetensors) or its network (.onnx)."""
    parser = verb_parser("export", export.__doc__, "--expid DIN_SE_MHTA_demo --to din.onnx")
    _add_experiment(parser)
    parser.add_argument("--to", type=Path, required=True, help="file to write: *.safetensors or *.onnx")
    parser.add_argument("--weights", type=Path, help="file of weights, instead of the experiment's best ones")
    parser.add_argument("--opset", type=int, help="ONNX operator set (default: 18)")
    args = parser.parse_args(argv)
    from fuxictr_mm.files import file_fingerprint
    from fuxictr_mm.run import Trained, resolve_experiment
    from fuxictr_mm.serve.export import DEFAULT_OPSET, check_target, export_onnx, export_safetensors

    check_target(args.to, args.opset)
    experiment = resolve_experiment(args.expid, args.config, args.dataset)
    model = Trained.open(experiment, args.weights).model
    about = {
        "expid": experiment.expid,
        "dataset_id": experiment.dataset_id,
        "weights": file_fingerprint(args.weights or experiment.checkpoint),
    }
    if args.to.suffix == ".onnx":
        print(export_onnx(model, args.to, about, DEFAULT_OPSET if args.opset is None else args.opset).to_table())
    else:
        export_safetensors(model, args.to, about)
    print(f"written: {args.to} ({args.to.stat().st_size:,} bytes)")


def inspect(argv: list[str]) -> None:
    """Look a dataset over before training on it; prints the findings, and writes them as JSON and as a plot."""
    from fuxictr_mm.config.places import home
    from fuxictr_mm.config.yaml_files import load_dataset

    parser = verb_parser("inspect", inspect.__doc__, "--dataset MMCTR_demo")
    parser.add_argument("--dataset", required=True, help="dataset id, e.g. MMCTR_demo (generated if it is not there)")
    parser.add_argument("--config", help="directory with dataset_config.yaml or dataset_config/ (default: ours)")
    parser.add_argument("--out", type=Path, default=home() / "data" / "inspection", help="folder for the files")
    args = parser.parse_args(argv)
    from fuxictr_mm.demo.generator import DEMOS, ensure_demo
    from fuxictr_mm.files import atomic_write
    from fuxictr_mm.inspect.inspection import inspect_dataset

    params = load_dataset(args.dataset, args.config)
    if args.dataset in DEMOS:
        ensure_demo(Path(params["train_data"]).parent, DEMOS[args.dataset])
    findings = inspect_dataset(params)
    print(findings.to_table(), flush=True)
    record, picture = args.out / f"{args.dataset}.json", args.out / f"{args.dataset}.png"
    with atomic_write(record) as temporary:
        temporary.write_text(json.dumps(findings.to_dict(), indent=2) + "\n", encoding="utf-8")
    findings.plot(picture)
    print(f"\nwritten: {record} and {picture}")


def demo(argv: list[str]) -> None:
    """Generate MMCTR_demo, or a larger one, e.g. --rows 3600000 --items 91717."""
    from fuxictr_mm.config.places import home
    from fuxictr_mm.demo.generator import DemoSettings, generate_demo, summary

    parser = verb_parser("demo", demo.__doc__, "--rows 40000 --out small_demo")
    parser.add_argument("--out", type=Path, default=home() / "data" / "MMCTR_demo", help="folder to write")
    for field in fields(DemoSettings):
        if field.name == "leaky_levels":
            parser.add_argument("--leaky_levels", action="store_true", help="rows show the clicked item's levels")
        else:
            kind = float if field.name == "history_median" else int
            parser.add_argument(
                f"--{field.name}", type=kind, default=field.default, help="see DemoSettings (default: %(default)s)"
            )
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    settings = DemoSettings(**arguments)
    generate_demo(out, settings)
    print(f"{out}\n{summary(out, settings)}")


def _add_experiment(parser: argparse.ArgumentParser, *, expid: str | None = None, gpu: bool = False) -> None:
    """The arguments that name an experiment; without a default it has to be named."""
    shown = "experiment id (default: %(default)s)" if expid else "a trained experiment id"
    parser.add_argument("--config", default=None, help="FuxiCTR config directory; default: this repository's own")
    parser.add_argument("--expid", default=expid, required=expid is None, help=shown)
    parser.add_argument("--dataset", default=None, help="dataset id, instead of the experiment's own")
    if gpu:
        parser.add_argument("--gpu", type=int, default=-1, help="GPU index, -1 for CPU")


def _of(module: str, extra: str = "", *needed: str) -> Callable[[list[str]], None]:
    """A verb that a room of its own carries out, with the modules that an extra installs for it."""

    def verb(argv: list[str]) -> None:
        for name in needed:
            needs(name, extra)
        import_module(f"fuxictr_mm.{module}").main(argv)

    return verb


VERBS: dict[str, Callable[[list[str]], None]] = {
    "run": run,
    "prepare": _of("prepare.verb"),
    "encode": _of("encode.verb"),
    "seeds": _of("study.seeds"),
    "study": _of("study.study"),
    "tune": _of("study.tune"),
    "demo": demo,
    "inspect": inspect,
    "predict": predict,
    "export": export,
    "explain": _of("report.explain"),
    "report": _of("report.page", "report", "jinja2", "markdown_it"),
}
# What continues a verb after an interruption, beside the arguments that it was given.
RESUMABLE: dict[str, list[str]] = {"run": ["--resume"], "seeds": [], "study": [], "tune": [], "encode": []}


def _verb_list() -> str:
    return "verbs: " + ", ".join(VERBS) + "; each has its own --help"

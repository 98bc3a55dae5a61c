"""A finished experiment that can be used: the model, what it was trained on, and how it was fed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuxictr_mm.batch import ItemColumns
from fuxictr_mm.config.experiment import Experiment, identity
from fuxictr_mm.config.keys import KEYS
from fuxictr_mm.config.schema import DatasetSchema
from fuxictr_mm.data.gather import BatchGatherer
from fuxictr_mm.data.loader import item_columns, named_item_table
from fuxictr_mm.errors import ConfigError
from fuxictr_mm.features.table import ItemTable
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.run.build import build_model
from fuxictr_mm.run.results import saved_params
from fuxictr_mm.run.run import build_features, read_feature_map, warn_without_gpu
from fuxictr_mm.training.checkpoint import load_weights

__all__ = ["Trained"]


@dataclass(frozen=True)
class Trained:
    """A model in eval mode with everything that scoring needs.

    Attributes:
        model: one of ours, or one of FuxiCTR's that takes the challenge's batch.
        feature_map: the host's, as in training.
        table: the items that training knew.
        schema: the roles of the columns, and ``max_len``, how many history items training kept.
        trim: whether a batch was as long as its longest history, or as ``max_len``.
        params: what it was trained with, and where its files lie.
    """

    model: Any
    feature_map: Any
    table: ItemTable
    schema: DatasetSchema
    trim: bool
    params: Mapping[str, Any]

    @classmethod
    def open(cls, experiment: Experiment, weights: str | Path | None = None) -> "Trained":
        """Build a trained model again, on the device of the experiment's ``gpu``.

        Without ``weights`` it is the model as it was trained: the parameters and the feature map that the run noted
        when it began, and its best weights, whatever the YAML says by now. With ``weights`` it is the model that the
        YAML describes with the weights of that file, published ones for example.

        Args:
            experiment: from ``resolve_experiment``.
            weights: ``.model``, ``.pth`` or ``.safetensors`` file of a state dict.

        Raises:
            ConfigError: the experiment has not been trained here.
            DataError: the weights are damaged or do not fit.
        """
        if weights is None:
            experiment = as_trained(experiment)
        params = dict(experiment.params)
        warn_without_gpu(params)
        if weights is None:
            feature_map = read_feature_map(experiment.file(".feature_map.json"), params)
        else:
            feature_map, _ = build_features(params)
        model = build_model(experiment, feature_map)
        load_weights(model, weights or experiment.checkpoint)
        return cls.of(model, feature_map, params)

    @classmethod
    def of(cls, model: Any, feature_map: Any, params: Mapping[str, Any]) -> "Trained":
        """Put together what a script of one's own has trained.

        Args:
            model: put into eval mode.
            feature_map: that of the training, by ``MultimodalFeatureProcessor``: it names the item table.
            params: what loader and model were made with; ``max_len``, ``trim``, ``item_col`` and ``history_col`` say
                how the model was fed and have the loader's defaults.

        Raises:
            ConfigError: the feature map names no item table.
            DataError: the item table is missing or damaged.
        """
        table = named_item_table(feature_map)
        if table is None:
            raise ConfigError(
                "the feature map names no item table; build the features with MultimodalFeatureProcessor and train "
                "again."
            )
        schema = DatasetSchema.from_feature_map(feature_map, **params)
        return cls(model.eval(), feature_map, table, schema, bool(params.get("trim", True)), dict(params))

    @property
    def compared(self) -> list[str]:
        """The columns that the model compares target and history in."""
        return self.model.vectors.compared if isinstance(self.model, MultimodalRankModel) else []

    def columns(self, table: ItemTable | None = None) -> ItemColumns:
        """The item columns that batches need, of the table of the training or of one with more items."""
        return item_columns(table or self.table, self.schema, self.compared)

    def gatherer(self, table: ItemTable | None = None) -> BatchGatherer:
        """What turns rows into batches as the model was fed them."""
        return BatchGatherer(self.columns(table), self.schema, trim=self.trim)


def as_trained(experiment: Experiment) -> Experiment:
    """The experiment with the parameters of its run; where the YAML has changed since, a warning says so.

    Raises:
        ConfigError: it has not been trained here.
    """
    checkpoint = experiment.checkpoint
    if not checkpoint.is_file():
        raise ConfigError(
            f"{checkpoint}: no weights of experiment {experiment.expid} on {experiment.dataset_id}; train it with "
            f"run_expid.py --expid {experiment.expid}, or give --weights FILE."
        )
    trained = saved_params(checkpoint)
    if not experiment.file(".result.json").is_file():
        logging.warning(
            f"{checkpoint.name}: the weights of a training that has not ended, the best so far; continue it with "
            f"run_expid.py --expid {experiment.expid} --resume."
        )
    for key in {**trained, **identity(experiment.params)}:
        before, now = (str(source.get(key, "its default")) for source in (trained, experiment.params))
        if before != now:
            logging.warning(
                f"{checkpoint.name} was trained with {key} = {before}; the YAML now says {now}, which is not used."
            )
    here = {key: value for key, value in experiment.params.items() if key in KEYS and KEYS[key].machine}
    return Experiment.of({**trained, **here}, dataset_keys=experiment.dataset_keys)

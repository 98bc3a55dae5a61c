"""What a trained model shows besides its metrics: how long one request takes, and what its PCAs explain."""

import itertools
import statistics
import time
from dataclasses import dataclass, field

from fuxictr_mm.config.experiment import Experiment
from fuxictr_mm.models.base import MultimodalRankModel
from fuxictr_mm.parquet import open_parquet
from fuxictr_mm.run import Trained
from fuxictr_mm.serve.ranking import Ranker

__all__ = ["CANDIDATES", "REPETITIONS", "Traits", "traits"]

CANDIDATES, WARM_UP, REPETITIONS = 100, 5, 30
ROWS_READ = 10_000  # of the test split, for one request to rank


@dataclass(frozen=True)
class Traits:
    """See :class:`~fuxictr_mm.study.records.VariantRecord`; without arguments: not measured yet."""

    latency_p50_ms: float | None = None
    explained_variance: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def traits(experiment: Experiment) -> Traits:
    """Measure the trained model of a run, on the device of its ``gpu``."""
    trained = Trained.open(experiment)
    explained = {
        name: {
            report["modality"]: report["explained_variance_ratio"]
            for report in column.info["reports"]
            if report.get("explained_variance_ratio") is not None
        }
        for name, column in trained.table.stored.items()
    }
    is_ours = isinstance(trained.model, MultimodalRankModel)
    return Traits(
        latency_p50_ms=_latency(trained) if is_ours else None,
        explained_variance={column: entries for column, entries in explained.items() if entries},
    )


def _latency(trained: Trained) -> float:
    """Median milliseconds to score targets of the test split for one of its users, with a history of median length."""
    schema = trained.schema
    context = [column.name for column in schema.context_columns]
    columns = (schema.item_col, schema.history_col, *context)
    file = open_parquet(trained.params["test_data"], columns)
    rows = next(file.iter_batches(ROWS_READ, columns)).to_pylist()
    rows.sort(key=lambda row: sum(item != 0 for item in row[schema.history_col]))
    user = rows[len(rows) // 2]
    targets = sorted({row[schema.item_col] for row in rows})
    candidates = list(itertools.islice(itertools.cycle(targets), CANDIDATES))
    ranker = Ranker(trained)
    milliseconds = []
    for _ in range(WARM_UP + REPETITIONS):
        started = time.perf_counter()
        ranker.score(user[schema.history_col], candidates, {name: user[name] for name in context})
        milliseconds.append(1000 * (time.perf_counter() - started))
    return statistics.median(milliseconds[WARM_UP:])

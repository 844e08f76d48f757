"""A forecast as a file: a probability for each sequence, and what weighs most for and against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from memoserve.catalog import Catalog
from memoserve.errors import BadInput
from memoserve.files.whole import writing
from memoserve.forecast.result import BasisForecast, SequenceForecast
from memoserve.forecast.table import Rows, Table
from memoserve.store import Store

REASONS = 3
_SCALE = {"target_size", "compute_gap"}
"""Inputs that are the same for every sequence, and so no reason for one."""


def write_forecast(catalog: Catalog, forecast: SequenceForecast, one: BasisForecast, output: Path) -> int:
    """Write one row a sequence that the target has seen (or will have), in order of ids; how many.

    Columns: sequence_id int64; probability float32; reason_1 to reason_3, the columns of the largest linear
    contributions, by magnitude; contribution_1 to contribution_3 float32, what each adds to the log-odds of
    the logistic regression over the average window. What it is learned from and costs is under the key
    `memoserve` of the metadata. Whole or not at all. Raises BadInput for another ending than .parquet,
    StorageFailed if the file system refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_name(output)
    table = Table(catalog, forecast.target.suite, forecast.columns)
    names = pa.array(one.fitted.model.inputs.names)
    schema = _schema(pa, json.dumps(_about(catalog, forecast, one), sort_keys=True))
    count = 0
    try:
        with writing(output) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            for rows in table.unlabelled(one.plan.role):
                file.write_batch(_batch(pa, names, schema, rows, one))
                count += len(rows)
    finally:
        table.close()
    return count


def check_name(output: Path) -> None:
    """Raise BadInput for a file that a forecast can't be written to by its ending."""
    if output.suffix.lower() != ".parquet":
        raise BadInput(
            f"--output {output}: a forecast is written as Parquet; name a file that ends in .parquet"
        )


def _schema(pa: Any, about: str) -> Any:
    reason = pa.dictionary(pa.int8(), pa.string())
    fields = [("sequence_id", pa.int64()), ("probability", pa.float32())]
    for number in range(1, REASONS + 1):
        fields += [(f"reason_{number}", reason), (f"contribution_{number}", pa.float32())]
    return pa.schema(fields, metadata={"memoserve": about})


def _batch(pa: Any, names: Any, schema: Any, rows: Rows, one: BasisForecast) -> Any:
    model = one.fitted.model
    x = model.inputs.standardized(rows, one.plan.role)
    probability = model.calibration(model.logit_of(x)).astype(np.float32)
    given = model.contributions_of(x)
    arrays = [pa.array(rows.sequence_id), pa.array(probability)]
    left, every = np.abs(given), np.arange(len(rows))
    for _ in range(REASONS):
        most, largest = np.zeros(len(rows), np.int8), np.zeros(len(rows), np.float32)
        for index, name in enumerate(model.inputs.names):
            if name not in _SCALE:
                more = left[:, index] > largest
                np.copyto(most, index, where=more, casting="unsafe")
                np.copyto(largest, left[:, index], where=more)
        # Where nothing is left, there is no reason.
        none = largest == 0
        arrays.append(pa.DictionaryArray.from_arrays(pa.array(most, mask=none), names))
        arrays.append(pa.array(given[every, most], mask=none))
        left[every, most] = 0
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _about(catalog: Catalog, forecast: SequenceForecast, one: BasisForecast) -> dict[str, object]:
    plan = one.plan
    return {
        "fingerprint": Store.open(catalog.store).fingerprint(forecast.target.suite),
        "suite": forecast.target.suite,
        "target": forecast.target.name,
        "basis": one.basis,
        "learner": forecast.learner,
        "unit": forecast.unit,
        "learned_from": [str(role) for role in plan.teachers],
        "fit_on": forecast.fit_on,
        "paid": [run.name for run in plan.paid],
        "training_flops": plan.training_flops,
        "base_rate": one.base_rate.share,
        "precision": forecast.promised,
        "threshold": one.threshold,
    }

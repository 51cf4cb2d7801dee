"""Methods of statsforecast (`pip install pytwin[forecast]`), adapter by adapter."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from pytwin.errors import DataError
from pytwin.fleet.forecast.methods import Method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_TSB_ALPHA = 0.2  # weight of the newest bin, for the probability of a request and for the size


def library_forecast(
    method: Method, counts: Floats, origins: NDArray[np.int64], horizon: int, season_bins: int
) -> Floats:
    """Forecast counts, (adapters, origins, horizon) >= 0.

    A history that never changes is forecast to go on as it is, without a model; where a model
    gives no finite number, the mean of the history stands in.

    Raises
    ------
    DataError: statsforecast is not installed.
    """
    import numpy as np

    model = _model(method, season_bins)
    result = np.empty((len(counts), len(origins), horizon))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Fits of odd series warn; what they give is judged by its errors, as all methods are.
        warnings.simplefilter("ignore")
        for row, series in enumerate(counts):
            for column, origin in enumerate(origins):
                past = series[:origin]
                if past.min() == past.max():
                    result[row, column] = past[0]
                    continue
                ahead = np.asarray(model.forecast(y=past, h=horizon)["mean"], dtype=np.float64)
                result[row, column] = np.where(np.isfinite(ahead), ahead, past.mean())
    return np.maximum(result, 0.0)


def _model(method: Method, season_bins: int) -> Any:
    try:
        from statsforecast import models
    except ImportError:
        raise DataError(
            f"method ({method.value}) needs statsforecast: pip install 'pytwin[forecast]', or use "
            "persistence, ewma, moving-average, seasonal-naive or daily-shape"
        ) from None
    if method is Method.SES:
        return models.SimpleExponentialSmoothingOptimized()
    if method is Method.CROSTON:
        return models.CrostonClassic()
    if method is Method.TSB:
        return models.TSB(alpha_d=_TSB_ALPHA, alpha_p=_TSB_ALPHA)
    if method is Method.HOLT_WINTERS:
        return models.HoltWinters(season_length=season_bins, error_type="A")
    return models.AutoETS(season_length=max(season_bins, 1))


def installed() -> bool:
    """Whether statsforecast is there."""
    from importlib.util import find_spec

    return find_spec("statsforecast") is not None

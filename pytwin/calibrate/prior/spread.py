"""How far a prior may be off: every measured profile is predicted from the others."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from pytwin.calibrate.prior import memory, steps
from pytwin.calibrate.prior.learn import (
    FRONTEND,
    LOAD_TERMS,
    Measured,
    early_eos_of,
    load_figures,
    memory_constants,
    short,
    step_factors,
)
from pytwin.calibrate.terms import FloatArray
from pytwin.catalog import load_lengths


def spread_of(measured: Sequence[Measured]) -> dict[str, float]:
    """Relative standard deviations for a model never measured, on a measured GPU.

    Names are those of a profile's `uncertainty.factors`, but kv_bytes (in bytes) and throughput,
    which no factor explains: how much of their output models leave out by ending early.

    Step time: squared log errors of predictions from the other profiles, explained by the squared
    shares of the groups of terms (by likelihood). Front end and loads: scatter of the profiles' own
    figures. All but loads are widened for being estimated from so few profiles.
    """
    rows, errors, weights = [], [], []
    for one, rest in _left_out(measured):
        factors = step_factors(rest)
        predicted = one.design @ factors
        share = steps.shares(one.components, factors, one.features)
        squares = [np.ones(len(predicted)), *(share[name] ** 2 for name in steps.GROUPS)]
        rows.append(np.stack(squares, axis=1))
        errors.append(np.log(predicted / one.step_us) ** 2)
        weights.append(steps.weights(one.features) ** 2)
    variance = _variances(*(np.concatenate(parts) for parts in (rows, errors, weights)))
    widen = _pooled(len(measured)) * small_sample(2 * (len(measured) - 1))
    names = ("step_time", *steps.GROUPS)
    spread = {name: widen * sqrt(value) for name, value in zip(names, variance, strict=True)}
    figures = [load_figures(one) for one in measured]
    # Loads from disk happen at start; under traffic adapters come from host memory.
    loads = [[figure[name] for figure in figures] for name in LOAD_TERMS if "disk" not in name]
    # Not widened: where two models differ sixfold, as loads do, Student's t asks for seventyfold,
    # which neither the link nor the host's copies allow.
    spread["load_time"] = _log_spread(loads, widen=False)
    spread["frontend"] = _log_spread([_frontend(measured, key) for key in FRONTEND[:3]])
    spread["polls"] = _log_spread([_frontend(measured, FRONTEND[3])])
    spread["kv_bytes"] = _kv_bytes(measured)
    spread["throughput"] = _throughput(measured)
    return {name: short(value) for name, value in spread.items()}


def small_sample(degrees: int) -> float:
    """How much wider a 90 % interval is whose spread was estimated with so few degrees."""
    from scipy import stats  # slow to import

    return float(stats.t.ppf(0.95, degrees) / stats.norm.ppf(0.95))


def _left_out(measured: Sequence[Measured]) -> list[tuple[Measured, list[Measured]]]:
    return [(one, [other for other in measured if other is not one]) for one in measured]


def _pooled(count: int) -> float:
    """A prediction from all profiles errs less than one from all but one."""
    return sqrt((1 + 1 / count) / (1 + 1 / (count - 1)))


def _variances(matrix: FloatArray, squares: FloatArray, weight: FloatArray) -> FloatArray:
    """Variances v >= 0 that make squared errors with variance `matrix` @ v likeliest (normal)."""
    from scipy.optimize import minimize

    def unlikely(logs: FloatArray) -> tuple[float, FloatArray]:
        parts = matrix * np.exp(logs)
        variance = parts.sum(axis=1)
        slope = weight * (1 / variance - squares / variance**2)
        return float(weight @ (np.log(variance) + squares / variance)), slope @ parts

    start = np.full(matrix.shape[1], np.log(0.01))
    bounds = [(np.log(1e-6), 0.0)] * matrix.shape[1]
    found = minimize(unlikely, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return np.asarray(np.exp(found.x), dtype=np.float64)


def _frontend(measured: Sequence[Measured], key: str) -> list[float]:
    return [
        sum(float(term["coefficient"]) for term in one.profile.data["frontend"][key])
        for one in measured
    ]


def _log_spread(quantities: Sequence[Sequence[float]], *, widen: bool = True) -> float:
    """Of one more model's value, pooled over the quantities that every profile has."""
    usable = [values for values in quantities if min(values) > 0]
    count = len(quantities[0])
    variance = float(np.mean([np.var(np.log(values), ddof=1) for values in usable]))
    # One degree of freedom would ask for a factor of 3.8: two models tell no tails.
    degrees = max(2, len(usable) * (count - 1))
    return sqrt(variance * (1 + 1 / count)) * (small_sample(degrees) if widen else 1.0)


def _kv_bytes(measured: Sequence[Measured]) -> float:
    """Bytes by which KV memory is off: overhead at few and many sequences, LoRA's fixed part."""
    errors = []
    for one, rest in _left_out(measured):
        own = memory_constants(one)
        others = memory.mean([memory_constants(other) for other in rest])
        fixed = others.lora_fixed_bytes - own.lora_fixed_bytes
        per_logit = others.sampler_bytes_per_logit - own.sampler_bytes_per_logit
        sampler = others.sampler_bytes - own.sampler_bytes
        errors.append(others.forward_bytes - own.forward_bytes + fixed)
        errors += [sampler + per_logit * one.model.vocab * seqs + fixed for seqs in (256, 2048)]
    widen = _pooled(len(measured)) * small_sample(2 * (len(measured) - 1))
    return float(np.sqrt(np.mean(np.square(errors)))) * widen


def _throughput(measured: Sequence[Measured]) -> float:
    """Relative: scatter of the tokens that early ends take off the ShareGPT traffic."""
    lost = []
    for one in measured:
        ends = early_eos_of(one)
        table = load_lengths(one.profile.data["lengths"]["sharegpt"])
        prompt, output = table.prompt_tokens.astype(float), table.output_tokens.astype(float)
        chance = ends["probability"] + ends["per_token"] * output
        lost.append(
            float(table.weights @ (chance * output / 2) / (table.weights @ (prompt + output)))
        )
    deviation = float(np.std(lost, ddof=1))
    return deviation * sqrt(1 + 1 / len(lost)) * small_sample(max(2, len(lost) - 1))

"""Triton kernels of the fused engine. All matrices are float32 and lie row by row, without gaps.

Products split each operand into a TF32 number and its TF32 rest and add up three tensor-core products (`tf32x3`): the
error is that of float32, at a third of the tensor cores' TF32 speed. Each step's product is added to the sum in
float32, so a long sum loses nothing to the tensor cores' shorter accumulators. No kernel adds atomically: the order of
every sum is fixed, and so is the result. Rows are counted in 64 bits, since a matrix may exceed 2^31 elements.

`no_type_check` keeps run-time type checkers, which wrap functions, away from what Triton reads as source.
"""

from typing import no_type_check

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

LEAST = tl.constexpr(-3.4028234663852886e38)
"""Least float32: unlike -inf, it can be subtracted from itself."""


@triton.jit
@no_type_check
def load(matrix, row, column, rows, columns):
    """Tile of a matrix at the rows and columns; 0 outside of it."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(matrix + row.to(tl.int64)[:, None] * columns + column[None, :], mask=inside, other=0.0)


@triton.jit
@no_type_check
def store(matrix, row, column, rows, columns, tile):
    """Write a tile at the rows and columns, what lies inside."""
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(matrix + row.to(tl.int64)[:, None] * columns + column[None, :], tile, mask=inside)


@triton.jit
@no_type_check
def load_relative(matrix, origin, row, column, rows, columns):
    """Tile of a matrix, minus the origin in each row; 0 outside of its columns."""
    shift = tl.load(origin + column, mask=column < columns, other=0.0)
    return load(matrix, row, column, rows, columns) - shift[None, :]


@triton.jit
@no_type_check
def locate(
    features, means, origin, own, squared_radius, own_squared_distance, own_logit, samples, classes, dim,
    SAMPLES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Of each sample ||x||^2, ||x - m_z||^2 and x . m_z - ||m_z||^2 / 2, the latter two 0 where z is no class here."""
    i = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    z = tl.load(own + i, mask=i < samples, other=-1)
    is_here = (z >= 0) & (z < classes)
    z = tl.where(is_here, z, 0)
    radius = tl.zeros((SAMPLES, DIM), dtype=tl.float32)
    distance = tl.zeros((SAMPLES, DIM), dtype=tl.float32)
    logit = tl.zeros((SAMPLES, DIM), dtype=tl.float32)
    for start in range(0, dim, DIM):
        d = start + tl.arange(0, DIM)
        x = load_relative(features, origin, i, d, samples, dim)
        m = load_relative(means, origin, z, d, classes, dim)
        radius += x * x
        distance += (x - m) * (x - m)
        logit += x * m - 0.5 * m * m
    tl.store(squared_radius + i, tl.sum(radius, axis=1), mask=i < samples)
    tl.store(own_squared_distance + i, tl.where(is_here, tl.sum(distance, axis=1), 0.0), mask=i < samples)
    tl.store(own_logit + i, tl.where(is_here, tl.sum(logit, axis=1), 0.0), mask=i < samples)


@triton.jit
@no_type_check
def squared_norms(means, origin, out, classes, dim, CLASSES: tl.constexpr, DIM: tl.constexpr):
    """||m_k||^2."""
    k = tl.program_id(0) * CLASSES + tl.arange(0, CLASSES)
    total = tl.zeros((CLASSES, DIM), dtype=tl.float32)
    for start in range(0, dim, DIM):
        m = load_relative(means, origin, k, start + tl.arange(0, DIM), classes, dim)
        total += m * m
    tl.store(out + k, tl.sum(total, axis=1), mask=k < classes)


@triton.jit
@no_type_check
def logits_of_tile(
    features, means, origin, bias, i, k, samples, classes, dim,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """x_i . m_k + bias_k."""
    logits = tl.zeros((SAMPLES, CLASSES), dtype=tl.float32)
    for start in range(0, dim, DIM):
        d = start + tl.arange(0, DIM)
        x = load_relative(features, origin, i, d, samples, dim)
        m = load_relative(means, origin, k, d, classes, dim)
        logits = tl.dot(x, tl.trans(m), logits, input_precision="tf32x3")
    return logits + tl.load(bias + k, mask=k < classes, other=0.0)[None, :]


@triton.jit
@no_type_check
def evidence(
    features, means, origin, bias, own, maxima, totals, samples, classes, dim, classes_of_part,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Maximum of the other classes' logits in one part of the classes, and the sum of exponentials relative to it."""
    i = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    z = tl.load(own + i, mask=i < samples, other=-1).to(tl.int32)
    first = tl.program_id(1) * classes_of_part
    maximum = tl.full((SAMPLES,), LEAST, dtype=tl.float32)
    total = tl.zeros((SAMPLES,), dtype=tl.float32)
    for start in range(first, tl.minimum(first + classes_of_part, classes), CLASSES):
        k = start + tl.arange(0, CLASSES)
        logits = logits_of_tile(
            features, means, origin, bias, i, k, samples, classes, dim, SAMPLES, CLASSES, DIM
        )  # fmt: skip
        is_other = (z[:, None] != k[None, :]) & (k < classes)[None, :]
        logits = tl.where(is_other, logits, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(logits, axis=1))
        total = total * tl.exp(maximum - new_maximum) + tl.sum(tl.exp(logits - new_maximum[:, None]), axis=1)
        maximum = new_maximum
    out = tl.program_id(1).to(tl.int64) * samples + i
    tl.store(maxima + out, maximum, mask=i < samples)
    tl.store(totals + out, total, mask=i < samples)


@triton.jit(do_not_specialize=("first", "stop"))
@no_type_check
def weigh(
    features, means, origin, bias, own, log_normalizer, own_weight, panel, transposed_means, samples, first, stop, dim,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Weights w_ik of the classes from `first` to `stop`, class by sample.

    The last programs write m_k of these classes, dimension by class.
    """
    k = first + tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    if tl.program_id(0) < tl.cdiv(samples, SAMPLES):
        i = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
        logits = logits_of_tile(
            features, means, origin, bias, i, k, samples, stop, dim, SAMPLES, CLASSES, DIM
        )  # fmt: skip
        z = tl.load(own + i, mask=i < samples, other=-1).to(tl.int32)
        log_posterior = logits - tl.load(log_normalizer + i, mask=i < samples, other=float("inf"))[:, None]
        of_own = tl.load(own_weight + i, mask=i < samples, other=0.0)
        is_other = (k < stop)[None, :] & (z[:, None] != k[None, :])
        w = tl.where(is_other, tl.exp(tl.where(is_other, log_posterior, 0.0)), of_own[:, None])
        store(panel, k - first, i, stop - first, samples, tl.trans(w))
    else:
        for start in range(0, dim, DIM):
            d = start + tl.arange(0, DIM)
            m = load_relative(means, origin, k, d, stop, dim)
            store(transposed_means, d, k - first, dim, stop - first, tl.trans(m))


@triton.jit
@no_type_check
def add_weighted_means(
    program, panel, transposed_means, out, samples, classes, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Add sum_k w_ik m_k over a panel's classes: one tile of samples and dimensions."""
    tiles = tl.cdiv(dim, COLUMNS)
    i = program // tiles * ROWS + tl.arange(0, ROWS)
    d = program % tiles * COLUMNS + tl.arange(0, COLUMNS)
    total = load(out, i, d, samples, dim)
    for start in range(0, classes, STEP):
        k = start + tl.arange(0, STEP)
        w = load(panel, k, i, classes, samples)
        m = load(transposed_means, d, k, dim, classes)
        total = tl.dot(tl.trans(w), tl.trans(m), total, input_precision="tf32x3")
    store(out, i, d, samples, dim, total)


@triton.jit
@no_type_check
def write_gradient(
    program, panel, features, means, origin, scale, pull, center, out, samples, first, stop, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a panel's means: one tile of dimensions and classes."""
    tiles = tl.cdiv(dim, ROWS)
    d = program % tiles * ROWS + tl.arange(0, ROWS)
    k = program // tiles * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    weight = tl.zeros((COLUMNS, STEP), dtype=tl.float32)
    for start in range(0, samples, STEP):
        i = start + tl.arange(0, STEP)
        w = load(panel, k, i, stop - first, samples)
        weight += w
        x = load_relative(features, origin, i, d, samples, dim)
        total = tl.dot(tl.trans(x), tl.trans(w), total, input_precision="tf32x3")
    factor, strength = tl.load(scale), tl.load(pull)
    target = tl.load(center + d, mask=d < dim, other=0.0)
    m = load_relative(means, origin, first + k, d, stop, dim)
    gradient = factor * (tl.trans(total) - tl.sum(weight, axis=1)[:, None] * m) + strength * (m - target[None, :])
    store(out, first + k, d, stop, dim, gradient)


@triton.jit(do_not_specialize=("first", "stop"))
@no_type_check
def products(
    panel, features, means, transposed_means, origin, scale, pull, center, weighted_means, gradient,
    samples, first, stop, dim,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Both products with a panel in one launch: the means' tiles are few and long, the features' fill the gaps.

    The second operand of a product should lie along the summed index in shared memory: TF32 tensor cores take it no
    other way. The first one may be turned on its way into registers. Hence `transposed_means`.
    """
    program = tl.program_id(0)
    of_gradient = tl.cdiv(stop - first, COLUMNS) * tl.cdiv(dim, ROWS)
    if program < of_gradient:
        write_gradient(
            program, panel, features, means, origin, scale, pull, center, gradient, samples, first, stop, dim,
            ROWS, COLUMNS, STEP,
        )  # fmt: skip
    else:
        add_weighted_means(
            program - of_gradient, panel, transposed_means, weighted_means, samples, stop - first, dim,
            ROWS, COLUMNS, STEP,
        )  # fmt: skip

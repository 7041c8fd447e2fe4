"""Triton kernels of the fused engine. All matrices are float32 and lie row by row.

Products split each operand into a TF32 number and its rest and add up three tensor-core products, of which the smaller
come first (`tf32x3`, written out here because Triton's own also looks for NaNs between them): the error is that of
float32, at a third of the tensor cores' TF32 speed. Each step's product is added to the sum in float32, so a long sum
loses nothing to the tensor cores' shorter accumulators. No kernel adds atomically: the order of every sum is fixed, and
so is the result. Rows are counted in 64 bits, since a matrix may exceed 2^31 elements.

Loads have no mask where they need none, so that 16 bytes go at once: rows beyond the last are the last again, and do
not count; scratch memory has full tiles. Tensor cores want the second operand of a TF32 product to lie along the summed
index; the first one may be turned on its way into registers. Hence the order of the operands, and `turned_x`.

`no_type_check` keeps run-time type checkers, which wrap functions, away from what Triton reads as source.
"""

from typing import no_type_check

import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

LEAST = tl.constexpr(-3.4028234663852886e38)
"""Least float32: unlike -inf, it can be subtracted from itself."""
LEAST_LENGTH = tl.constexpr(1e-12)
"""As in the engine."""


@triton.jit
@no_type_check
def split(numbers):
    """The nearest TF32 numbers, and the rests."""
    bits = numbers.to(tl.int32, bitcast=True)
    high = ((bits + 4096) & -8192).to(tl.float32, bitcast=True)
    return high, numbers - high


@triton.jit
@no_type_check
def add_product(a, b, total):
    """Add a @ b."""
    a_high, a_low = split(a)
    b_high, b_low = split(b)
    product = tl.dot(a_low, b_high, input_precision="tf32")
    product = tl.dot(a_high, b_low, product, input_precision="tf32")
    product = tl.dot(a_high, b_high, product, input_precision="tf32")
    return total + product


@triton.jit
@no_type_check
def load(matrix, row, column, rows, columns, EVEN: tl.constexpr):
    """Tile of a matrix at the rows and columns; 0 outside of its columns, which even ones are not."""
    at = matrix + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * columns + column[None, :]
    return tl.load(at, mask=None if EVEN else (column < columns)[None, :], other=None if EVEN else 0.0)


@triton.jit
@no_type_check
def load_vectors(vectors, origin, k, d, classes, dim, EVEN: tl.constexpr):
    """Tile of class vectors, minus the origin if there is one."""
    tile = load(vectors, k, d, classes, dim, EVEN)
    if origin is not None:
        tile -= tl.load(origin + d, mask=d < dim, other=0.0)[None, :]
    return tile


@triton.jit
@no_type_check
def survey(
    vectors, origin, log_weights, sizes, totals, classes, dim, classes_of_part,
    COSINES: tl.constexpr, CLASSES: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Of each class ||v_k||^2, or of cosines 1 / ||w_k||; of each part of the classes the sum of weight_k v_k."""
    d = tl.arange(0, DIM)
    total = tl.zeros((CLASSES, DIM), dtype=tl.float32)
    first = tl.program_id(0) * classes_of_part
    stop = tl.minimum(first + classes_of_part, classes)
    for start in range(first, stop, CLASSES):
        k = start + tl.arange(0, CLASSES)
        inside = (k < stop)[:, None] & (d < dim)[None, :]
        v = tl.where(inside, load_vectors(vectors, origin, k, d, classes, dim, False), 0.0)
        size = tl.sum(v * v, axis=1)
        if COSINES:
            size = 1.0 / tl.maximum(tl.sqrt(size), LEAST_LENGTH)
        tl.store(sizes + k, size, mask=k < stop)
        if log_weights is not None:
            v *= tl.exp(tl.load(log_weights + k, mask=k < stop, other=0.0))[:, None]
        total += v
    if totals is not None:
        tl.store(totals + tl.program_id(0) * dim + d, tl.sum(total, axis=0), mask=d < dim)


@triton.jit
@no_type_check
def products_of_tile(
    x, vectors, origin, lengths, i, k, samples, classes, dim,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """x_i . v_k."""
    total = tl.zeros((SAMPLES, CLASSES), dtype=tl.float32)
    for start in range(0, dim, STEP):
        d = start + tl.arange(0, STEP)
        v = load_vectors(vectors, origin, k, d, classes, dim, EVEN)
        total = add_product(load(x, i, d, samples, dim, EVEN), tl.trans(v), total)
    if lengths is not None:
        total *= tl.load(lengths + k, mask=k < classes, other=0.0)[None, :]
    return total


@triton.jit
@no_type_check
def evidence(
    x, vectors, origin, lengths, bias, own, maxima, totals, samples, classes, dim, classes_of_part,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Maximum of the other classes' logits in one part of the classes, and the sum of exponentials relative to it.

    A program takes one tile of samples and one part after the other.
    """
    rows = tl.cdiv(samples, SAMPLES)
    for job in range(tl.program_id(0), rows * tl.cdiv(classes, classes_of_part), tl.num_programs(0)):
        part = job // rows
        i = job % rows * SAMPLES + tl.arange(0, SAMPLES)
        z = tl.load(own + i, mask=i < samples, other=-1).to(tl.int32)
        maximum = tl.full((SAMPLES,), LEAST, dtype=tl.float32)
        total = tl.zeros((SAMPLES,), dtype=tl.float32)
        for start in range(part * classes_of_part, tl.minimum((part + 1) * classes_of_part, classes), CLASSES):
            k = start + tl.arange(0, CLASSES)
            logits = products_of_tile(
                x, vectors, origin, lengths, i, k, samples, classes, dim, SAMPLES, CLASSES, STEP, EVEN
            )  # fmt: skip
            if bias is not None:
                logits += tl.load(bias + k, mask=k < classes, other=0.0)[None, :]
            is_other = (z[:, None] != k[None, :]) & (k < classes)[None, :]
            logits = tl.where(is_other, logits, float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(logits, axis=1))
            total = total * tl.exp(maximum - new_maximum) + tl.sum(tl.exp(logits - new_maximum[:, None]), axis=1)
            maximum = new_maximum
        out = part.to(tl.int64) * samples + i
        tl.store(maxima + out, maximum, mask=i < samples)
        tl.store(totals + out, total, mask=i < samples)


@triton.jit(do_not_specialize=("first", "stop"))
@no_type_check
def weigh(
    x, vectors, origin, lengths, bias, own, log_normalizer, own_weight, panel, sums,
    samples, first, stop, dim, width, height,
    SAMPLES: tl.constexpr, CLASSES: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Weights w_ik of the classes from `first` to `stop`, 0 beyond; and their sums over the samples of a tile.

    Of cosines, whose vectors have lengths, the latter are sums of w_ik (x_i . v_k). A program takes one tile after the
    other.
    """
    rows = height // SAMPLES
    for job in range(tl.program_id(0), rows * tl.cdiv(stop - first, CLASSES), tl.num_programs(0)):
        row = job % rows
        i = row * SAMPLES + tl.arange(0, SAMPLES)
        column = job // rows * CLASSES + tl.arange(0, CLASSES)
        k = first + column
        product = products_of_tile(
            x, vectors, origin, lengths, i, k, samples, stop, dim, SAMPLES, CLASSES, STEP, EVEN
        )  # fmt: skip
        z = tl.load(own + i, mask=i < samples, other=-1).to(tl.int32)
        log_w = product - tl.load(log_normalizer + i, mask=i < samples, other=float("inf"))[:, None]
        if bias is not None:
            log_w += tl.load(bias + k, mask=k < stop, other=0.0)[None, :]
        is_own = z[:, None] == k[None, :]
        of_own = tl.load(own_weight + i, mask=i < samples, other=0.0)[:, None]
        w = tl.where(is_own, of_own, tl.exp(tl.where(is_own, 0.0, log_w)))
        w = tl.where((k < stop)[None, :], w, 0.0)
        tl.store(panel + i.to(tl.int64)[:, None] * width + column[None, :], w)
        if lengths is not None:
            w *= product
        tl.store(sums + row * width + column, tl.sum(w, axis=0))


@triton.jit
@no_type_check
def add_to_samples(
    program, panel, vectors, origin, lengths, out, samples, first, stop, dim, width, height, share,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Add sum_k w_ik v_k over a share of a panel's classes to a part of `out`: one tile, dimension by sample."""
    d = program % tl.cdiv(dim, ROWS) * ROWS + tl.arange(0, ROWS)
    program = program // tl.cdiv(dim, ROWS)
    i = program % (height // COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
    part = program // (height // COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(part * share, tl.minimum(part * share + share, stop - first), STEP):
        column = start + tl.arange(0, STEP)
        w = tl.load(panel + i.to(tl.int64)[:, None] * width + column[None, :])
        v = load_vectors(vectors, origin, first + column, d, stop, dim, EVEN)
        if lengths is not None:
            v *= tl.load(lengths + tl.minimum(first + column, stop - 1))[:, None]
        total = add_product(tl.trans(v), tl.trans(w), total)
    at = out + (part * samples + i).to(tl.int64)[:, None] * dim + d[None, :]
    inside = (i < samples)[:, None] & (d < dim)[None, :]
    tl.store(at, tl.load(at, mask=inside, other=0.0) + tl.trans(total), mask=inside)


@triton.jit
@no_type_check
def write_gradient(
    program, panel, sums, turned_x, vectors, origin, lengths, log_weights, scale, of_total, of_spread, out, of_bias,
    first, stop, dim, width, height, summands,
    DISTANCES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a panel's vectors: one tile, class by dimension; and where d is 0 that of their biases."""
    column = program // tl.cdiv(dim, COLUMNS) * ROWS + tl.arange(0, ROWS)
    d = program % tl.cdiv(dim, COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, height, STEP):
        i = start + tl.arange(0, STEP)
        w = tl.load(panel + i.to(tl.int64)[:, None] * width + column[None, :])
        x = tl.load(turned_x + tl.minimum(d, dim - 1).to(tl.int64)[:, None] * height + i[None, :])
        total = add_product(tl.trans(w), tl.trans(x), total)
    factor = tl.load(scale)
    k = first + column
    gradient = factor * total
    if DISTANCES or lengths is not None or of_bias is not None:
        sum_of_w = tl.zeros((ROWS,), dtype=tl.float32)
        for summand in range(summands):
            sum_of_w += tl.load(sums + summand * width + column)
        sum_of_w *= factor
        if of_bias is not None:
            tl.store(of_bias + k, sum_of_w, mask=(k < stop) & (program % tl.cdiv(dim, COLUMNS) == 0))
        if DISTANCES:
            v = load_vectors(vectors, origin, k, d, stop, dim, EVEN)
            of_class = 2.0 * tl.load(of_spread) * v + tl.load(of_total + d, mask=d < dim, other=0.0)[None, :]
            if log_weights is not None:
                of_class *= tl.exp(tl.load(log_weights + k, mask=k < stop, other=0.0))[:, None]
            gradient += of_class - sum_of_w[:, None] * v
        if lengths is not None:
            length = tl.load(lengths + k, mask=k < stop, other=0.0)
            v = load(vectors, k, d, stop, dim, EVEN)
            gradient = length[:, None] * (gradient - (sum_of_w * length)[:, None] * v)
    tl.store(
        out + k.to(tl.int64)[:, None] * dim + d[None, :], gradient, mask=(k < stop)[:, None] & (d < dim)[None, :]
    )  # fmt: skip


@triton.jit(do_not_specialize=("first", "stop"))
@no_type_check
def products(
    panel, sums, turned_x, vectors, origin, lengths, log_weights, scale, of_total, of_spread, of_samples, gradient,
    of_bias, samples, first, stop, dim, width, height, share, summands,
    DISTANCES: tl.constexpr, CLASSES_FIRST: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Both products with a panel in one launch, the longer sums first: the shorter fill the gaps."""
    of_classes = tl.cdiv(stop - first, ROWS) * tl.cdiv(dim, COLUMNS)
    program = tl.program_id(0)
    if not CLASSES_FIRST:
        program = tl.num_programs(0) - 1 - program
    if program < of_classes:
        write_gradient(
            program, panel, sums, turned_x, vectors, origin, lengths, log_weights, scale, of_total, of_spread,
            gradient, of_bias, first, stop, dim, width, height, summands,
            DISTANCES, ROWS, COLUMNS, STEP, EVEN,
        )  # fmt: skip
    else:
        add_to_samples(
            program - of_classes, panel, vectors, origin, lengths, of_samples,
            samples, first, stop, dim, width, height, share, ROWS, COLUMNS, STEP, EVEN,
        )  # fmt: skip

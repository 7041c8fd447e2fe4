"""Stand-in: what the inspection needs of the store's format."""

from collections import Counter

import pyarrow as pa

MANIFEST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("identity", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("faces", pa.int32()),
        ("box", pa.list_(pa.float64(), 4)),
        ("landmarks", pa.list_(pa.float64(), 10)),
        ("probability", pa.float64()),
        ("residual", pa.float64()),
        ("profile", pa.float64()),
        ("sharpness", pa.float64()),
        ("contrast", pa.float64()),
        ("digest", pa.binary(32)),
        ("perceptual_hash", pa.binary(32)),
        ("photo_bytes", pa.int64()),
        ("photo_modified_ns", pa.int64()),
        ("part", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int32()),
        ("checksum", pa.uint32()),
    ]
)


def count_statuses(table: pa.Table) -> Counter[str]:
    """Count the photos of each status, and under `failed: <reason>` those that failed for each reason.

    Args:
        table: the columns `status` and `reason` of a manifest.
    """
    counts: Counter[str] = Counter()
    # On one thread the groups come in the order of their first photos.
    grouped = table.select(["status", "reason"]).group_by(["status", "reason"], use_threads=False)
    for row in grouped.aggregate([([], "count_all")]).to_pylist():
        counts[row["status"]] += row["count_all"]
        if row["status"] == "failed":
            counts[f"failed: {row['reason']}"] += row["count_all"]
    return counts

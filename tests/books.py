"""What a ledger says of an upstream, all columns named."""

COLUMNS = (
    "versions", "pending", "held", "delivered", "quarantined", "superseded", "skipped", "deleted", "thinned",
    "evicted", "lost",
)  # fmt: skip


def upstream_books(**counts: int) -> dict[str, int]:
    """Those counts, and 0 in all other columns."""
    assert set(counts) <= set(COLUMNS)
    return dict.fromkeys(COLUMNS, 0) | counts

"""Files, here and behind URLs: opening, ranges of bytes, writing whole or not at all, locks and leases."""

"""What everything else stands on: strict JSON, files, digests, versions, progress."""

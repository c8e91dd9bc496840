"""What a schedule loses against the original, sample by sample."""

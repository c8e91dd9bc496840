"""Work in units: what is measured, by whom, and where results are kept."""

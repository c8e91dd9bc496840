"""Density-peak clusters of vision tokens (ViTCoP's visual information clustering)."""

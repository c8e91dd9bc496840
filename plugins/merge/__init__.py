"""Cluster merge: fewer visual tokens by keeping some of each cluster and combining the others."""

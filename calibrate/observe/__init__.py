"""What the scores tell: how well each candidate score ranks visual tokens by how much the answer depends on them."""

"""``effnet-zoo bench``: this package beside its peers, same weights and input, outputs compared before timing."""

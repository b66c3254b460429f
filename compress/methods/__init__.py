"""The pruning methods, one published algorithm a file: each shapes a network's channels and scores them."""

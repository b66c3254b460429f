"""Tasks: the data, the loss and the metric that a network is trained and judged by."""

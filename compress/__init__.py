"""The network being made smaller: its channel graph, the methods, the training and the proof."""

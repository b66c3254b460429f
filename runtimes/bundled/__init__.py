"""What travels in a profile bundle, as one file: it imports nothing else of Espalier, in the syntax of Python 3.8."""

"""The commands: arguments, wiring, printing."""

"""The rules: what each operator does to labels."""

"""What a finished run found, and the one HTML file that shows it."""

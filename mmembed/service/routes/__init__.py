"""One file for each dialect that the service speaks."""

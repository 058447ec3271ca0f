"""Where decisions go besides the log."""

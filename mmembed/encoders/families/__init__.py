"""One file a family of encoders; each is reached by its entry point alone."""

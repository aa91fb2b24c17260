"""Programs that run, one a package."""

"""Students that run without this package."""

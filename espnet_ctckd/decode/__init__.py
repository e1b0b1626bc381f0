"""From frame posteriors to tokens."""

"""Data on disk: Kaldi lists, audio and text."""

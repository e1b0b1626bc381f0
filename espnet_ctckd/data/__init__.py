"""Data on disk: Kaldi lists, audio, text."""

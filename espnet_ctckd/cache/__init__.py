"""Posteriors of a teacher on disk: Kaldi ark/scp, metadata and checks."""

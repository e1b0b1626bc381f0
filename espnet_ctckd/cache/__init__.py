"""Posteriors of a teacher on disk: Kaldi ark/scp, and what they belong to."""

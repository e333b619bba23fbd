"""Measure this server and its peers, in one run on the same cores."""

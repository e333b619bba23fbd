"""Measure this server beside others, in one run on the same cores."""

"""Experiments: each answers one question in one command, prints whether its claims held, and writes its table and figure."""

"""Supernets: stage tables, elastic networks, and the plain ones they contain."""

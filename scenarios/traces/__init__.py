"""Importers of published traces: what they read, in which units, what they leave out. No data is shipped."""

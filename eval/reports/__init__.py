"""The report of a verification: numbers, tables, charts, page."""

"""Graph files: one reader per format, one way from what a file says to a graph."""

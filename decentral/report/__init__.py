"""What a run folder says: read it, draw it, write it as one HTML page, compare it
with others.

Importing this package loads no drawing library; :mod:`decentral.report.figures`
does, when used.
"""

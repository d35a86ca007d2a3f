"""Aggregation: what a node makes of the rows that it hears, and of its own.

A rule is one of two functions, for g nodes each of which has m rows before it, its own first:

- ``(values, weights) -> rows``: from the values [g, m, c] of some columns, and the weights [g, m]
  of the mixing, to the new values [g, c];
- ``(distances, weights) -> weights``, with the trait ``sees="distances"``: from the distances
  [g, m] of whole rows from the node's own, to the weights of a sum of which the own row takes the
  rest.

Trait ``linear``: it is the weighted sum itself, x_i <- sum_j W_ij x_j, and keeps what that keeps.

In a global merge all rows are looked at together; a rule that sees distances then takes them from
the median of all rows, number by number, since there is no row of one's own.
"""

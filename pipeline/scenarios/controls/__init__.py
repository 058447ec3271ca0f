"""Two control worlds whose right answers are known: one that only fusion can solve, one in which fusion gains nothing."""

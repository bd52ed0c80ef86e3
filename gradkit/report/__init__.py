"""Tables and figures from data frames. Knows nothing of how the numbers came about."""

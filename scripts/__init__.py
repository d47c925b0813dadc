"""Tools of a checkout: the report page, the cost of a step, benchmarks."""

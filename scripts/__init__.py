"""Tools of a checkout, not in the wheel: the report page, the cost of a step."""

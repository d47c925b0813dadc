"""Control: exploration, planners, models of dynamics."""

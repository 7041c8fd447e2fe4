"""Training recipes compared, with seeds as replicates."""

"""What training costs, beside rivals."""

"""What ixflow promises, tried on real databases."""

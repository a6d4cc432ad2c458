"""From an arch to files that ship: specialise, export, verify."""

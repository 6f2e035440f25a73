"""What every request passes before its route: errors, origin, keys, size of bodies."""
